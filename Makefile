# Each target sets itself up on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help caption test test-fast lint bench

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# First alone and exact, so that no other requirement pulls another build of it.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

caption: $(READY) ## Render a few demo videos and caption them into out/demo
	$(BIN)/python -m demo.render_samples out/demo/videos
	$(BIN)/python jobs/caption_corpus.py --input out/demo/videos --output out/demo

# Two processes, since many tests wait; their threads must not spin on the cores while they do.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile

test: $(READY) ## Run the test suite
	$(PYTEST)

test-fast: $(READY) ## Run the tests that start no Ray and take no long time
	$(PYTEST) --ignore tests/integration -m "not slow"

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## Measure acceptance and decoding times of the demo models into out/bench
	$(BIN)/python -m jobs.benchmark --output out/bench
