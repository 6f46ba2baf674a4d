# make demo | make test | make lint: each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := TF_CPP_MIN_LOG_LEVEL=2 $(VENV)/bin/python

# tensorflow-addons' last release needs an environment of its own, and Python 3.11.
ADDONS_PYTHON ?= python3.11
ADDONS := .venv-addons
ADDONS_READY := $(ADDONS)/.ready

# libtpu, the TPU's compiler, is large and not needed for anything else; and beside it
# TensorFlow takes longer to start, because it imports JAX where it finds it.
TPU_CHECK := .venv-tpu
TPU_CHECK_READY := $(TPU_CHECK)/.ready

.PHONY: env demo test test-all lint libtpu serving addons-reference tpu-check

env: $(READY)

# The whole story on embedded data; open runs/demo/report.html afterwards.
demo: $(READY)
	$(RUN) -m tools.demo --workdir=runs/demo

# What CI runs, after `make libtpu serving`: everything but the tests marked slow.
test: $(READY)
	$(RUN) -m pytest -n 2 --dist worksteal -q -m "not slow" tests

test-all: $(READY)
	$(RUN) -m pytest -n 2 --dist worksteal -q tests

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

# Adds libtpu to .venv, so that `make test` compiles the training step for a TPU too.
libtpu: $(VENV)/.libtpu

# Adds what asking a server and exporting to other formats need to .venv.
serving: $(VENV)/.serving

# Rebuilds the arrays of tests/golden/ from tensorflow-addons; says what changed.
addons-reference: $(ADDONS_READY)
	TF_CPP_MIN_LOG_LEVEL=2 $(ADDONS)/bin/python -W ignore tools/addons_reference/write.py tests/golden

$(ADDONS_READY): tools/addons_reference/requirements.txt
	$(ADDONS_PYTHON) -m venv $(ADDONS)
	$(ADDONS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Compiles the training step for a TPU, and computes it on CPUs; no TPU needed.
tpu-check: $(TPU_CHECK_READY)
	TF_CPP_MIN_LOG_LEVEL=2 $(TPU_CHECK)/bin/python -m pytest -q tests/tools/test_tpu_check.py
	$(TPU_CHECK)/bin/python -m tools.tpu_check \
		--config=experiments/pretrain.py:ViT-B/16,imagenet2012 \
		--config.data.batch_size=1024 --topology=v3:2x2 --replicas=8

$(TPU_CHECK_READY): requirements.txt requirements-tpu-check.txt
	$(PYTHON) -m venv $(TPU_CHECK)
	$(TPU_CHECK)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-tpu-check.txt
	touch $@

$(READY): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vit_tf needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $(READY)

$(VENV)/.libtpu: $(READY) requirements-tpu-check.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-tpu-check.txt
	touch $@

$(VENV)/.serving: $(READY) requirements-serving.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-serving.txt
	touch $@
