"""Every command answers `--help` at once: it has not imported what takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

import pipelines

COMMANDS = sorted(path.stem for path in Path(pipelines.__file__).parent.glob("[!_]*.py"))
HEAVY = {"torch", "ray", "diffusers", "transformers", "peft", "pyarrow"}
SCRIPT = """
import importlib, sys
main = importlib.import_module(sys.argv[1]).main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print("imported:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    asked = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"pipelines.{command}"], capture_output=True, text=True, timeout=120, check=True
    )
    said, _, imported = asked.stdout.rpartition("imported: ")
    assert said.startswith(f"usage: python -m pipelines.{command} ")
    assert HEAVY & set(imported.split()) == set()


def test_these_are_the_commands():
    assert {"distill", "compare", "generate", "status", "drain"} <= set(COMMANDS)
