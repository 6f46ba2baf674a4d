# make demo | make test | make lint: each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := TF_CPP_MIN_LOG_LEVEL=2 $(VENV)/bin/python

.PHONY: demo test test-all lint

# The whole story on embedded data; open runs/demo/report.html afterwards.
demo: $(READY)
	$(RUN) -m tools.demo --workdir=runs/demo

# What CI runs: everything but the tests marked slow.
test: $(READY)
	$(RUN) -m pytest -n 2 -q -m "not slow" tests

test-all: $(READY)
	$(RUN) -m pytest -n 2 -q tests

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

$(READY): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vit_tf needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $(READY)
