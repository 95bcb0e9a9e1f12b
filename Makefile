PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup distill test test-all programs check bench tensorboard schema

setup: $(VENV)/installed

distill: setup
	$(BIN)/python -m pipelines.distill pipelines/configs/scene.yaml

test: check programs
	$(BIN)/python -m pytest -m "not slow"

test-all: check programs
	$(BIN)/python -m pytest

# What the tests need beside Python: Debian's packages, which root may install.
programs:
	@{ command -v prometheus && command -v chromium; } > /dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq \
	    && apt-get install -qq --yes --no-install-recommends prometheus chromium > /dev/null; } \
	    || { echo "make test needs Debian's packages: sudo apt-get install prometheus chromium"; exit 1; }

check: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m pipelines.bench

# The curves and pictures of every run in runs/, also while it goes on.
tensorboard: setup
	$(BIN)/tensorboard --logdir runs

# torch first and alone: with it in place nothing else pulls another build of it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

# The two documents that are made from the configuration's code.
schema: setup
	$(BIN)/python -m pipelines.config schema > docs/config.schema.json
	$(BIN)/python -m pipelines.config reference > docs/configuration.md
