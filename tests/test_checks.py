"""What stands in two places says the same: `make check` and pre-commit; what CI runs and what the README says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

MAKEFILE = Path("Makefile").read_text()
HOOKS = Path(".pre-commit-config.yaml")


def recipe(target: str) -> list[str]:
    """The commands of a target."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in lines.splitlines()]


def test_a_commit_is_checked_by_what_make_check_runs():
    (repository,) = yaml.safe_load(HOOKS.read_text())["repos"]
    assert repository["repo"] == "local", "a hook that is downloaded"
    entries = [hook["entry"] for hook in repository["hooks"]]
    commands = [shlex.split(entry)[2] if entry.startswith("bash -c ") else entry for entry in entries]
    assert commands == recipe("check")
    assert {command.split()[0] for command in commands} >= {f".venv/bin/{tool}" for tool in ("ruff", "pyright", "lint-imports")}


def test_pre_commit_reads_its_configuration():
    checked = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", str(HOOKS)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_the_quick_and_the_slow_tests_are_all_tests():
    assert re.findall(r"^make (.*)$", Path(".ci/run").read_text(), re.MULTILINE) == ["test"]
    assert recipe("test") == [".venv/bin/python -m pytest -n 2 --dist loadfile"], "without those that pyproject.toml leaves out"
    assert recipe("test-slow") == [".venv/bin/python -m pytest -m slow"]
    assert "-m 'not slow'\"" in Path("pyproject.toml").read_text()
