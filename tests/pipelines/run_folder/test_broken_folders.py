"""Run folders whose files are damaged, or were made by somebody else: every command says so in a line."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.config.run import RunConfig
from pipelines.distill import main as distill
from pipelines.export import main as export
from pipelines.status import main as status


@pytest.fixture
def finished(config_file: Path, make_config, capsys) -> RunConfig:
    settings = ("run.name=damaged", "run.steps=4", "run.loggers=[]")
    assert distill([str(config_file), "--reference", *settings]) == 0
    capsys.readouterr()
    return make_config(*settings)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters that others run on this machine are none of ours."""
    monkeypatch.setattr("pipelines.cluster.connect.clusters_here", lambda likely=None: [])
    monkeypatch.setattr("ray.is_initialized", lambda: False)


@pytest.fixture
def line(capsys) -> Callable[..., str]:
    """What a command that must refuse says."""

    def refused(command: Callable[..., int], *arguments: str) -> str:
        assert command(list(arguments)) == 2
        (said,) = capsys.readouterr().err.splitlines()
        return said

    return refused


GARBAGE = [b"garbage", b"[]", b"5", b"null", b"{}", b"\xff\xfe", b"[" * 100_000]


@pytest.mark.parametrize("content", GARBAGE)
def test_a_summary(finished, line, content: bytes, tmp_path: Path):
    (finished.folder / "summary.json").write_bytes(content)
    assert f"{finished.folder / 'summary.json'} is damaged" in line(export, str(finished.folder), "--to", str(tmp_path / "new"))
    assert f"{finished.folder / 'summary.json'} is damaged" in line(status, str(finished.folder))


@pytest.mark.parametrize("content", GARBAGE)
def test_a_change(config_file, finished, line, content: bytes):
    (finished.folder / "changes.jsonl").write_bytes(content + b"\n")
    for command in (
        lambda: line(distill, str(config_file), "--dry-run", "run.name=damaged"),
        lambda: line(status, str(finished.folder)),
    ):
        said = command()
        assert "changes.jsonl" in said
        assert "is no row" in said or "a change has a step and what is set" in said


@pytest.mark.parametrize("content", [b"garbage", b"[]", b"null", b"\xff\xfe"])
def test_a_row(config_file, finished, line, content: bytes, tmp_path: Path):
    metrics = finished.folder / "metrics.jsonl"
    rows = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join([*rows[:2], content + b"\n", *rows[2:]]))
    assert "metrics.jsonl: line 3 is no row" in line(export, str(finished.folder), "--to", str(tmp_path / "new"))
    assert "metrics.jsonl: line 3 is no row" in line(status, str(finished.folder))
    assert "metrics.jsonl: line 3 is no row" in line(
        distill, str(config_file), "--reference", "run.name=damaged", "run.steps=6"
    )


@pytest.mark.parametrize("recipe", [{}, {"routes": 5}, {"routes": {"x": {}}, "experts": {}}])
def test_a_recipe(config_file, finished, line, recipe):
    path = finished.folder / "checkpoints" / "step-000004" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": recipe}))
    said = line(distill, str(config_file), "--reference", "run.name=damaged", "run.steps=6")
    assert "its recipe is damaged" in said or "was written with other settings" in said
    assert path.is_file(), "nothing is deleted"


def test_a_checkpoint_that_claims_another_step_is_not_deleted_for_it(config_file, finished, capsys):
    path = finished.folder / "checkpoints" / "step-000004" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 1}))
    assert distill([str(config_file), "--dry-run", "run.name=damaged", "run.steps=6"]) == 0
    assert path.is_file()


def test_a_folder_with_another_name_is_no_checkpoint(finished, capsys):
    (finished.folder / "checkpoints" / "step-abc").mkdir()
    (finished.folder / "checkpoints" / "step-abc" / "state.json").touch()
    assert status([str(finished.folder)]) == 0


def test_what_a_checkpoint_does_not_vouch_for_is_not_exported(finished, tmp_path: Path, capsys):
    average = finished.folder / "checkpoints" / "step-000004" / "ema"
    os.symlink("/etc/passwd", average / "leak")
    (average / "stranger.txt").write_text("x")
    assert export([str(finished.folder), "--to", str(tmp_path / "new")]) == 0
    assert {"leak", "stranger.txt"}.isdisjoint(path.name for path in (tmp_path / "new").iterdir())
