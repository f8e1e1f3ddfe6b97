# Every target also works without make: read the line it runs.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup repro test test-all test-triton check docs clean

$(VENV)/.ready: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else "setup: Python 3.11-3.13 is needed, found " + sys.version.split()[0] + "; name one with: make setup PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

setup: $(VENV)/.ready  ## the environment, from constraints.txt

repro: setup  ## the whole pipeline; only what changed runs again
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	$(BIN)/llm report --summary

test: setup  ## all tests, with a whole tiny run of the pipeline
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2

test-all: test test-triton  ## and every kind of the model through the whole tiny pipeline, most of an hour
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 tests/pipeline/check_every_kind.py

test-triton:  ## the Triton kernels in its interpreter, in an environment of their own
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet -c constraints.txt torch==2.13.0 numpy pytest
	.venv-triton/bin/python -m pip install --quiet triton==3.9.0
	TRITON_INTERPRET=1 .venv-triton/bin/python -m pytest tests/interpreted/check_numbers.py
	.venv-triton/bin/python -m pytest tests/interpreted/check_compile.py

check: setup  ## style, types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: setup  ## bring the code quoted in docs/ up to date
	$(BIN)/llm docs

clean:  ## everything that can be made again, except DVC's cache
	rm -rf $(VENV) .work report
