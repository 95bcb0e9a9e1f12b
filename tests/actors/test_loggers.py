"""What the loggers get: TensorBoard's own files are read back; Weights & Biases is a recorder of the same calls."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actors.journal import Journal
from actors.loggers import check_loggers
from fields.update import Update

SKILLS = {"single": {"exact": 0.25, "graded": 0.5}}
PICTURE = np.full((3, 4, 6), 0.5, dtype=np.float32)


def write(folder, start: int, loggers: tuple[str, ...]) -> None:
    journal = Journal(folder, start, loggers)
    for step in range(start, start + 3):
        update = Update(
            loss=step / 2, route_loss={"a": step / 4}, route_samples={"a": 1}, route_target_norm={"a": 1.0}, gradient_norm=0.1
        )
        journal.record(step, update, policy_version=max(0, step - 1), sample_ids=[step], seconds=1.0)
    journal.record_skills(start + 3, SKILLS, PICTURE, 0.125)
    journal.close()


def test_tensorboard_shows_every_step_once_though_the_run_was_interrupted(tmp_path):
    write(tmp_path, 0, ("tensorboard",))
    write(tmp_path, 2, ("tensorboard",))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(point.step, point.value) for point in board.Scalars("loss/a")] == [(step, step / 4) for step in range(5)]
    assert [point.value for point in board.Scalars("staleness")] == [0, 1, 1, 1, 1]
    assert [point.value for point in board.Scalars("graded/single")][-1] == 0.5
    assert [point.value for point in board.Scalars("rollout_mismatch")][-1] == 0.125
    assert (board.Images("student")[-1].width, board.Images("student")[-1].height) == (6, 4)


def test_wandb_gets_the_same_numbers(tmp_path, monkeypatch):
    started, logged, finished = [], [], []

    def init(**options):
        started.append(options)
        run = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: finished.append(True))
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda array: array))
    folder = tmp_path / "scene"
    write(folder, 2, ("wandb",))
    assert started == [{"project": "fieldweave", "group": "scene", "name": "scene from step 2", "dir": str(folder)}]
    assert logged[0] == (2, {"loss/all": 1.0, "loss/a": 0.5, "gradient_norm": 0.1, "staleness": 1})
    assert logged[3] == (5, {"exact/single": 0.25, "graded/single": 0.5, "rollout_mismatch": 0.125})
    step, values = logged[4]
    assert (step, values["student"].shape, values["student"].dtype) == (5, (4, 6, 3), np.uint8)
    assert finished == [True]
    assert not (folder / "tensorboard").exists()


def test_a_logger_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr("actors.loggers.find_spec", lambda package: None if package == "wandb" else object())
    check_loggers(["tensorboard"])
    with pytest.raises(ValueError, match="'wandb' needs the package 'wandb', which is not installed: pip install wandb"):
        check_loggers(["tensorboard", "wandb"])
