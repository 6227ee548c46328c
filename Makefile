# What to run, in one place; `make` alone lists it. The package index is the only network that is used, through pip
# and its own configuration.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test gpu stacks stress docs clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP) ## make the environment .venv with the versions in constraints.txt

$(STAMP): pyproject.toml constraints.txt scripts/install.py src/synaptic_intelligence/version.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) scripts/install.py $(VENV)
	@touch $@

demo: install ## train Split MNIST with and without synapses, and show the result
	@$(BIN)/synaptic run split-mnist --seeds 3 --overwrite --out runs/demo

test: install ## run every check and test
	@PATH="$(abspath $(BIN)):$$PATH" scripts/check

gpu: install ## on a machine with a GPU: what is checked and measured there alone
	@$(BIN)/python -m pytest tests/optim/test_on_a_gpu.py tests/tasks/test_task.py --quiet
	@$(BIN)/python benchmarks/step_overhead.py --device cuda
	@$(BIN)/python benchmarks/replicates.py --device cuda

docs: install ## make docs/paper.md and what README quotes again from results/
	@$(BIN)/python scripts/build_docs.py

stacks: install ## compare the training stacks with the plain loop once more, and record what docs/stacks.md shows
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/stacks --quiet --record-stacks results/stacks.json

stress: install ## try to break it for two to three hours: kills, damaged files, full disks, an hour of training
	@for script in kills fuzz disks readers consolidations soak; do \
	  OMP_NUM_THREADS=1 $(BIN)/python stress/$$script.py || exit 1; done

clean: ## remove caches and build products; .venv and runs/ stay
	@rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find src scripts tests -name __pycache__ -prune -exec rm -rf {} +
