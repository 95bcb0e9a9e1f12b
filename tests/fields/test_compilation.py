"""Compiled networks answer as others do, and are compiled once, whatever they are asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_pipelines import PIPELINES

TESTS = Path(__file__).parents[1]


def holds(*case: str) -> None:
    """Run one of the cases in a process of its own."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    command = [sys.executable, str(TESTS / "fields" / "compilation_cases.py"), *case]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS.parent, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_updates_compile_nothing_again():
    holds("update")


@pytest.mark.slow  # kernels are built; the quick update only traces them
def test_a_compiled_expert_answers_as_before():
    holds("expert")


@pytest.mark.slow  # like the update
@pytest.mark.parametrize("case", ["shared", "limit"])
def test_nothing_is_compiled_again(case):
    holds(case)


@pytest.mark.slow  # like the update, of the scene world
@pytest.mark.parametrize("name", PIPELINES)
def test_no_size_of_image_and_no_number_of_samples_compiles_a_family_again(name):
    holds("family", name)
