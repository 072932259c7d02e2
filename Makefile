# make run    STaR on addition: a tiny model teaches itself, about five minutes on two cores
# make test   the test suite
# make check  format, lint, types and the fast tests: green before each commit

VENV ?= .venv
PYTHON ?= python3
PIP = $(VENV)/bin/pip --disable-pip-version-check
OVERRIDES ?=

.PHONY: run test test-fast check clean

run: $(VENV)/.run
	$(VENV)/bin/star-exp run $(OVERRIDES)

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest $(PYTEST)

test-fast: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -m "not slow" $(PYTEST)

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/python -m pytest -m "not slow" $(PYTEST)

clean:
	rm -rf $(VENV) dist .pytest_cache .ruff_cache

# torch first and by its exact version, so that a CPU build that is at hand is taken and kept
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	touch $(VENV)/.run $@
