"""A run whose learner is lost goes on by itself, to the same student."""

import io
import os
import re
import signal
import threading
from pathlib import Path

import pytest
import ray
from ray.util.state import list_actors
from waiting import wait_for

from actors.journal import METRICS, rows
from pipelines.config.run import RunConfig
from pipelines.run.failures import RunFailed
from runs import distributed, reference, trained_ids


def _address() -> str:
    return ray.get_runtime_context().gcs_address


def learners(run: str):
    """Everybody who was the learner of a run."""
    return [actor for actor in list_actors(_address(), limit=1000, detail=True) if actor.name == f"{run}/learner"]


def signalling(config: RunConfig, sent: signal.Signals, after: int) -> threading.Thread:
    """Sends a run's learner a signal once so many steps are recorded; started."""

    def send() -> None:
        wait_for(lambda: len(rows(config.folder / METRICS)) >= after, f"{after} steps")
        (learner,) = [learner for learner in learners(config.run.name) if learner.state == "ALIVE"]
        os.kill(learner.pid, sent)

    thread = threading.Thread(target=send, daemon=True)  # nothing to wait for if the run fails before
    thread.start()
    return thread


HANGS = "the learner has not answered for 10 s"


@pytest.mark.parametrize(
    ("sent", "settings", "said"),
    [
        (signal.SIGKILL, (), "the learner's process ended"),
        pytest.param(
            signal.SIGSTOP,
            ("run.watchdog_s=10", "learner.lag=1", "eval.every=4"),
            "the learner has not answered for 10 s",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_learner_that_ends_or_hangs_is_replaced_and_the_student_is_the_same(on_standing, make_config, sent, settings, said):
    config = on_standing(*settings, "run.name=lost", "run.steps=16", "rollout.workers=1")
    thread = signalling(config, sent, after=6)
    shown = io.StringIO()
    outcome = distributed(config, shown=shown)
    thread.join()
    expected = reference(make_config(*settings, "run.name=reference", "run.steps=16"))
    assert outcome is not None
    assert outcome.weights.checksum == expected.weights.checksum
    assert sorted(trained_ids(config.folder)) == list(range(16 * 12))
    assert exams(config.folder) == exams(config.folder.parent / "reference")
    assert {model: exam.skills for model, exam in outcome.results.items()} == {
        model: exam.skills for model, exam in expected.results.items()
    }
    assert len(learners("lost")) >= 2
    assert f"warning: {said}; it is started anew, and the run continues from step " in shown.getvalue()


def exams(folder: Path) -> list[tuple[int, dict]]:
    """Of the training: the reference writes no row of its start."""
    return [(row["step"], row["skills"]) for row in rows(folder / "skills.jsonl") if row["step"]]


@pytest.mark.slow
def test_a_request_to_stop_outlives_the_learner(on_standing):
    """That is asked for while the learner is frozen, which then dies."""
    config = on_standing("run.name=stopping", "checkpoint.every=100", "run.steps=1000", "rollout.workers=1")

    def stop() -> None:
        wait_for(lambda: len(rows(config.folder / METRICS)) >= 3, "three steps")
        (learner,) = [learner for learner in learners("stopping") if learner.state == "ALIVE"]
        os.kill(learner.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(learner.pid, signal.SIGKILL)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    assert distributed(config) is None
    thread.join()
    assert len(learners("stopping")) == 2
    assert [row["step"] for row in rows(config.folder / METRICS)] == [0], "one step, from the beginning, and a checkpoint"
    assert (config.folder / "checkpoints" / "step-000001" / "state.json").is_file()


@pytest.mark.slow
def test_a_learner_that_is_lost_again_and_again_ends_the_run(on_standing):
    config = on_standing("run.name=cursed", "checkpoint.every=100", "run.steps=1000", "rollout.workers=1")
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.2):
            for learner in learners("cursed"):
                if learner.state == "ALIVE" and rows(config.folder / METRICS):
                    os.kill(learner.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(RunFailed, match="ended, as it did 3 times before after step 0; the same command continues there"):
            distributed(config)
    finally:
        ended.set()
        killer.join()
    assert len(learners("cursed")) == 4


@pytest.mark.slow  # the pool has a quick test of the same
def test_a_frozen_worker_is_named_and_replaced(on_standing, make_config):
    """Neither Ray nor the learner notices it; the call's time does."""
    settings = ("run.watchdog_s=5", "run.steps=12")
    config = on_standing(*settings, "run.name=stuck", "rollout.workers=1")
    shown = io.StringIO()

    def freeze() -> None:
        wait_for(lambda: len(rows(config.folder / METRICS)) >= 4, "four steps")
        (worker,) = [
            actor for actor in list_actors(_address(), limit=1000) if (actor.name, actor.state) == ("stuck/rollout-0", "ALIVE")
        ]
        os.kill(worker.pid, signal.SIGSTOP)
        frozen.append(worker.pid)

    frozen: list[int] = []
    thread = threading.Thread(target=freeze, daemon=True)
    thread.start()
    outcome = distributed(config, shown=shown)
    thread.join()
    assert outcome is not None
    assert outcome.weights.checksum == reference(make_config(*settings, "run.name=reference")).weights.checksum
    assert sorted(trained_ids(config.folder)) == list(range(12 * 12))
    said = shown.getvalue()
    assert re.search(
        r"no step for [5-9] s after step \d+; waited for:\n  step \d+, \w+, samples [\d, ]+: a rollout by version \d+",
        said,
    )
    assert re.search(r"  rollout worker 0: (queries|to load the base again), for \d+ s", said)
    assert "to load the base again" in said or f"stuck/rollout-0, process {frozen[0]}, is stopped" in said
