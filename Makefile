PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup distill test test-slow test-all programs check bench chaos tensorboard schema
.NOTPARALLEL:

setup: $(VENV)/installed

distill: setup
	$(BIN)/python -m pipelines.distill pipelines/configs/scene.yaml

# Every check, and at least one test of everything: minutes on two cores. Two processes, each with a Ray cluster of its own.
test: check programs
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The tests that are marked slow: every family through Serve, kills at work, the whole story of a job, the comparison.
test-slow: $(VENV)/tested programs
	$(BIN)/python -m pytest -m slow

test-all: test test-slow

# What the tests need beside Python: Debian's packages, which root may install.
programs:
	@{ command -v prometheus && command -v chromium && command -v redis-server && command -v gcc; } > /dev/null || { [ "$$(id -u)" = 0 ] \
	    && apt-get update -qq && apt-get install -qq --yes --no-install-recommends prometheus chromium redis-server gcc libc6-dev > /dev/null; } \
	    || { echo "make test needs Debian's packages: sudo apt-get install prometheus chromium redis-server gcc libc6-dev"; exit 1; }

# .pre-commit-config.yaml lists the same commands.
check: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pipelines.config schema | diff - docs/config.schema.json
	$(BIN)/python -m pipelines.config reference | diff - docs/configuration.md
	$(BIN)/python deploy/audit.py

# Into docs/performance.md and docs/performance.json.
bench: setup
	$(BIN)/python -m pipelines.bench --write docs

# Breaks a run of the scene world at every kind of process, and compares its student with an undisturbed one's.
chaos: setup
	$(BIN)/python -m pipelines.chaos pipelines/configs/scene.yaml run.name=broken run.steps=200 learner.batch_size=16 \
	    rollout.group_size=4 checkpoint.every=8 learner.lag=2 checkpoint.mirror=$(CURDIR)/runs/mirror \
	    'student.start={type: expert, expert: local_edit}' --nodes --faults 22 --seed 7

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

schema: setup
	$(BIN)/python -m pipelines.config schema > docs/config.schema.json
	$(BIN)/python -m pipelines.config reference > docs/configuration.md
