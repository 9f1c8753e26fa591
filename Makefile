# Two commands for a fresh machine: make demo, make test. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test chaos check bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## Run the example on a real broker and two real workers (KEEP=1 keeps them running)
	$(BIN)/pocoflow dev --demo

test: $(STAMP)  ## Run all tests, with the services that they need
	$(BIN)/python -m pytest $(ARGS)

chaos: $(STAMP)  ## Break everything that can break, on real processes (over an hour; table in build/)
	$(BIN)/python -m pytest tests/chaos --chaos=full $(ARGS)

check: $(STAMP)  ## Lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## Speed, as ratios in one run (minutes; see tests/bench/README.md)
	$(BIN)/python -m tests.bench.codec
	$(BIN)/python -m tests.bench.inline
	$(BIN)/python -m tests.bench.hop
	$(BIN)/python -m tests.bench.wait
	$(BIN)/python -m tests.bench.growth
	$(BIN)/python -m tests.bench.crowd

clean:  ## Remove the virtual environment and all caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
