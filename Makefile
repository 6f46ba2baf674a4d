# make demo | make test | make lint: each sets up .venv by itself.
# PYTHON is one program, whose path may have blanks.
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

# The oldest packages that requirements.txt allows, in an environment of their own.
LOWEST := .venv-lowest
LOWEST_READY := $(LOWEST)/.ready

PYTEST := -m pytest -n 2 --dist worksteal -q

# Refuses, in one line, a Python that the requirements have no packages for.
CHECKED = @command -v "$(PYTHON)" >/dev/null || \
	{ echo 'PYTHON=$(PYTHON): no such program; name one of Python 3.11 to 3.13' >&2; exit 1; }; \
	"$(PYTHON)" tools/check_python.py

.PHONY: env demo test test-extras test-all test-lowest lint libtpu serving
.PHONY: addons-reference tpu-check

env: $(READY)

# The whole story on embedded data; open runs/demo/report.html afterwards.
demo: $(READY)
	$(RUN) -m tools.demo --workdir=runs/demo

# Everything but the tests marked slow. Needs requirements.txt only; a test that needs
# more is skipped without it, and says what brings it.
test: $(READY)
	$(RUN) $(PYTEST) -m "not slow" tests

# Those that `make test` skips for want of the packages of `make libtpu serving`.
test-extras: libtpu serving
	$(RUN) $(PYTEST) -m "not slow" --extras tests

test-all: $(READY)
	$(RUN) $(PYTEST) tests

# `make test` with the oldest packages that requirements.txt allows.
test-lowest: $(LOWEST_READY)
	TF_CPP_MIN_LOG_LEVEL=2 $(LOWEST)/bin/python $(PYTEST) -m "not slow" tests

$(LOWEST_READY): requirements.txt
	$(CHECKED)
	"$(PYTHON)" -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/python -m uv pip install --quiet --python $(LOWEST)/bin/python \
		--resolution lowest-direct -r requirements.txt
	touch $@

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

# Adds libtpu and JAX to .venv: `make test-extras` compiles the training step for a TPU.
libtpu: $(VENV)/.libtpu

# Adds what asking a server and exporting to other formats need to .venv.
serving: $(VENV)/.serving

# Rebuilds the arrays of tests/golden/ from tensorflow-addons; says what changed.
addons-reference: $(ADDONS_READY)
	TF_CPP_MIN_LOG_LEVEL=2 $(ADDONS)/bin/python -W ignore tools/addons_reference/write.py tests/golden

$(ADDONS_READY): tools/addons_reference/requirements.txt
	"$(ADDONS_PYTHON)" -m venv $(ADDONS)
	$(ADDONS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Compiles the training step for a TPU, and computes it on CPUs; no TPU needed.
tpu-check: $(TPU_CHECK_READY)
	TF_CPP_MIN_LOG_LEVEL=2 $(TPU_CHECK)/bin/python -m pytest -q tests/tools/test_tpu_check.py
	$(TPU_CHECK)/bin/python -m tools.tpu_check \
		--config=experiments/pretrain.py:ViT-B/16,imagenet2012 \
		--config.data.batch_size=1024 --topology=v3:2x2 --replicas=8

$(TPU_CHECK_READY): requirements.txt requirements-tpu-check.txt
	$(CHECKED)
	"$(PYTHON)" -m venv $(TPU_CHECK)
	$(TPU_CHECK)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-tpu-check.txt
	touch $@

$(READY): requirements.txt
	$(CHECKED)
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $(READY)

$(VENV)/.libtpu: $(READY) requirements-tpu-check.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-tpu-check.txt
	touch $@

$(VENV)/.serving: $(READY) requirements-serving.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-serving.txt
	touch $@
