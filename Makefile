# make demo | make test: everything they need is set up first, in .venv, with Python 3.11 or later and make alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

.DEFAULT_GOAL := test
.PHONY: demo test test-slow bench lint docs setup clean help

help:
	@echo "make demo       fit handwritten digits and show what comes out; writes demo-output/"
	@echo "make test       lint, types, tests, doctests and documentation (the default)"
	@echo "make test-slow  the tests that take longer"
	@echo "make bench      speed beside other libraries; DATA=DIR for the rows that need data sets, ONLY=ROW for one row"
	@echo "make lint       ruff and mypy"
	@echo "make docs       the generated part of docs/cli.md"
	@echo "make clean      remove .venv and what was built"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("softmaxnet needs Python 3.11 or later; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/softmaxnet demo --output demo-output

test: lint
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -n $(JOBS) || test $$? -eq 5  # 5: there are none

DATA ?= $(wildcard ../shared/data)
BENCH_READY := $(VENV)/.bench-ready

$(BENCH_READY): $(READY) benchmarks/requirements.txt
	@sed -n 's/ *#.*//; /^fasttext/p' benchmarks/requirements.txt | \
		xargs $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt || \
		echo "fastText does not build here: it is left out of its row"
	@touch $@

bench: $(BENCH_READY)
	$(BIN)/python benchmarks/bench.py $(if $(DATA),--data $(DATA)) $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m softmaxnet.cli.reference docs/cli.md

clean:
	rm -rf $(VENV) dist build demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
