# Needs python3 (3.11 or newer), make and a package index; everything else is installed into .venv.
PYTHON ?= python3
# Of the tests: on two cores, each with a thread of its own, they take two thirds of the time.
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all check format clean

help:  ## Print this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing nlptl and its tools into .venv: once, some minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[samples,test,dev,notebooks]'
	@touch $@

quickstart: $(INSTALLED)  ## Train a sentiment classifier on real reviews; the run is kept in runs/quickstart.
	$(BIN)/python recipes/sentiment.py --output-dir runs/quickstart --overwrite

test: $(INSTALLED)  ## Run the tests that every change has to pass.
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not gpu and not nightly"

test-all: $(INSTALLED)  ## Run the long tests too; only those that need an accelerator are left out.
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not gpu"

check: $(INSTALLED)  ## Lint, check the format, the types and who imports whom.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Format the code and fix what lint can fix.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove .venv, caches and build outputs; runs stay.
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info
	find nlptl recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +
