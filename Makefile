PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup distill test check bench schema

setup: $(VENV)/installed

distill: setup
	$(BIN)/python -m pipelines.distill pipelines/configs/scene.yaml

test: check
	$(BIN)/python -m pytest

check: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m pipelines.bench

# torch first and alone: with it in place nothing else pulls another build of it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

schema: setup
	$(BIN)/python -m pipelines.config > docs/config.schema.json
