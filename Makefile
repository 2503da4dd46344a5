PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

FAULTS ?= 20

.PHONY: help run test cluster-test faults lint bench bench-quick bench-search clean

help:
	@echo "make run    install what is needed, run the quickstart study and print its tables"
	@echo "make test   install what is needed, run linters, type checks and all tests"
	@echo "make cluster-test  run only the tests on two raised hosts; needs root"
	@echo "make bench  print timings as ratios measured side by side"
	@echo "make bench-quick  the same on few images and trials, in minutes"
	@echo "make bench-search  print what each search finds per unit of compute, by replay (minutes)"
	@echo "make faults run the whole fault matrix, with FAULTS=20 kills of the driver, and print it"
	@echo "make clean  remove the virtual environment"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bohb]' || \
		echo "BOHB's packages need a C compiler and Python's headers; its tests will skip"
	@touch $@

run: $(VENV)/.installed
	$(BIN)/tuning run search_spaces/quickstart.yaml

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint
	$(BIN)/pytest

cluster-test: $(VENV)/.installed
	$(BIN)/pytest tests/cluster

bench: $(VENV)/.installed
	$(BIN)/python -m tests.benchmarks.training
	$(BIN)/python -m tests.benchmarks.recipe --seeds 2
	$(BIN)/python -m tests.benchmarks.svm
	$(BIN)/python -m tests.benchmarks.overhead
	$(BIN)/python -m tests.benchmarks.packing
	$(BIN)/python -m tests.benchmarks.growth

bench-quick: $(VENV)/.installed
	$(BIN)/python -m tests.benchmarks.training --quick
	$(BIN)/python -m tests.benchmarks.recipe --quick
	$(BIN)/python -m tests.benchmarks.svm --quick
	$(BIN)/python -m tests.benchmarks.overhead --quick
	$(BIN)/python -m tests.benchmarks.packing --quick
	$(BIN)/python -m tests.benchmarks.growth --quick

faults: $(VENV)/.installed
	$(BIN)/pytest tests/faults --faults $(FAULTS)

bench-search: $(VENV)/.installed
	$(BIN)/python -m tests.benchmarks.search

clean:
	rm -rf $(VENV)
