# Two commands on a fresh machine: `make bigpi` runs the main job, `make test` passes the tests.
# After the first run of each, both work without the package index: a stamp in the virtual environment, named by the
# digest of the metadata, says that it holds what they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DIGEST := $(shell cat setup.cfg pyproject.toml | cksum | cut -d ' ' -f 1)
RUN_READY := $(VENV)/.run-$(DIGEST)
TEST_READY := $(VENV)/.test-$(DIGEST)
BENCH_READY := $(VENV)/.bench-$(DIGEST)

.PHONY: bigpi test lint ready bench clean
.DELETE_ON_ERROR:

bigpi: $(RUN_READY)  ## form five machines on this computer and estimate pi with 1e9 samples
	$(BIN)/bigm run examples/bigpi.py

test: lint  ## check style, types and the import contract, then run the tests
	$(BIN)/python -m compileall -q bigm  # machines start from bytecode, even where Python may not write any
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

ready: $(TEST_READY)  ## set up the environment for the tests, and no more

lint: ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BENCH_READY)  ## print the table of docs/benchmarks.md, measured here and now
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python benchmarks/run.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "bigm needs Python 3.10 or later; $(PYTHON) is older (make PYTHON=python3.12 ...)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-%: $(BIN)/python
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[bigpi]'
	@touch $@

$(VENV)/.test-%: $(BIN)/python
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(RUN_READY)

$(VENV)/.bench-%: $(BIN)/python
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[benchmark]'
	@touch $@ $(RUN_READY)

clean:  ## remove the virtual environment and what tools left in the tree
	rm -rf $(VENV) build dist *.egg-info .*_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
