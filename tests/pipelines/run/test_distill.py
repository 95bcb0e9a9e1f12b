"""The example of docs/python.md runs, and a script may distil twice."""

import json
import re
from pathlib import Path

import pytest

from pipelines.config.run import AFTER
from pipelines.run.distill import distill

PAGE = Path("docs/python.md")


@pytest.mark.slow  # it draws the data of the scene world
def test_the_example_of_the_page_distils_a_student(tmp_path, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "reference=True" in example
    scope: dict = {}
    exec(example.replace('"run.dir=runs"', f'"run.dir={tmp_path}"'), scope)
    folder, outcome = scope["config"].folder, scope["outcome"]
    assert folder == tmp_path / "python"
    summary = json.loads((folder / "summary.json").read_text())
    assert outcome.weights.checksum == summary["weights_sha256"]
    assert outcome.steps == 10
    graded = outcome.results[AFTER].skills["background"]["graded"]
    printed = capsys.readouterr().out
    assert f"background {graded:.2f}" in printed
    assert (folder / "checkpoints" / "step-000010").is_dir()


def test_a_second_call_continues_from_the_checkpoint(make_config):
    first = distill(make_config("run.steps=2"), reference=True)
    assert first is not None
    assert first.steps == 2
    longer = distill(make_config("run.steps=4"), reference=True)
    at_once = distill(make_config("run.steps=4"), reference=True, resume="never")
    assert longer is not None
    assert at_once is not None
    assert longer.weights.checksum == at_once.weights.checksum != first.weights.checksum
