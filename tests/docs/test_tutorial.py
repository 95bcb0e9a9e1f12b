"""The tutorial, as its reader does it: every command of the page, on the tiny model that the page makes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def without_numbers(text: str) -> str:
    """One line, with numbers and spaces that may differ from run to run made equal."""
    return " ".join(re.sub(r"\d+(\.\d+)?", "0", text).split())


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """As from the repository root, which `folder` looks like, with this Python as `python`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"PATH": path, "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("actors", "docs", "fields", "pipelines", "services"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a dozen processes, each of which imports torch, diffusers and ray
def test_the_tutorial_ends_with_an_adapter_that_diffusers_loads(checkout):
    commands = 0
    for (kind, text), (next_kind, output) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        if kind == "yaml":
            (checkout / "data" / "tutorial" / "distill.yaml").write_text(text)
        elif kind == "python":
            done = run([sys.executable, "-c", text], checkout)
            assert done.returncode == 0, done.stderr
            assert float(done.stdout.split()[-1]) > 0.01, "the adapter must change the image"
        elif kind == "bash":
            assert next_kind == "text", f"the page shows no output of {text}"
            done = run(["bash", "-euc", text], checkout)
            said = without_numbers(done.stdout + done.stderr)
            assert done.returncode == (2 if output.startswith("error:") else 0), done.stdout + done.stderr
            for line in output.splitlines():
                assert line == "..." or without_numbers(line) in said, f"{text} did not print {line!r}, but {said}"
            commands += 1
    assert commands == 7
