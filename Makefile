# Everything runs in .venv, made on first use from constraints.txt. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test lint bench clean
help:
	@echo "make demo    train a classifier on scikit-learn's digits and say where its report is (about two minutes)"
	@echo "make test    the whole test suite, peers included"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the measurements of benchmarks/, printed as tables"

# The stamp is written last, so an interrupted installation is done again.
.venv/runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP_INSTALL) --editable .
	touch $@

.venv/development: .venv/runtime
	$(PIP_INSTALL) --editable '.[test,lint]'
	touch $@

demo: .venv/runtime
	$(BIN)/vitrail fit digits

# One thread a process: the tests share the cores between processes, not inside them.
test: .venv/development
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/development
	$(BIN)/python -m benchmarks.run $(ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
