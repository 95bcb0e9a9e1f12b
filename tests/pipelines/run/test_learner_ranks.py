"""A learner of several processes: the student of the reference loop to the last bit, also when one of them is lost."""

import io
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.util.state import list_actors
from waiting import wait_for

from actors.journal import METRICS, SKILLS, rows
from fields import checkpoint
from pipelines.parts.check_files import checked_parts
from pipelines.run.learner_process import end, start_learner
from pipelines.run.origin import Origin
from runs import distributed, reference, trained, trained_ids


def ranks(run: str):
    """Everybody who was rank 1 of a run."""
    address = ray.get_runtime_context().gcs_address
    return [actor for actor in list_actors(address=address, limit=1000, detail=True) if actor.name == f"{run}/learner-rank-1"]


@pytest.fixture
def expected(make_config):
    """The weights of the reference loop."""
    return lambda *overrides: reference(make_config("run.name=reference", *overrides)).weights.checksum


@pytest.mark.slow  # two ranks, of which one is killed, are among the quick tests
@pytest.mark.parametrize(("ranks", "lag", "micro_batch", "shard"), [(2, 0, 1, True), (3, 2, 2, False)])
def test_ranks_give_the_student_of_the_reference(on_standing, expected, ranks, lag, micro_batch, shard):
    settings = f"learner.lag={lag}", f"learner.micro_batch={micro_batch}", "learner.recompute=always"
    config = on_standing(*settings, f"learner.ranks={ranks}", f"learner.shard={shard}", "run.name=ranks")
    assert trained(config).checksum == expected(*settings)
    assert [row["loss"] for row in rows(config.folder / METRICS)] == [
        row["loss"] for row in rows(config.folder.parent / "reference" / METRICS)
    ]


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_continues_on_three(on_standing, expected):
    first = on_standing("run.steps=4", "checkpoint.every=4", "learner.ranks=2", "run.name=resumed")
    trained(first)
    saved = checkpoint.newest(first.folder / "checkpoints")
    longer = on_standing("learner.ranks=3", "run.name=resumed")
    assert trained(longer, resume=saved).checksum == expected()


def killing(run: str, metrics: Path, after: int) -> threading.Thread:
    """Kills a run's rank 1 once so many steps are recorded; started."""

    def kill() -> None:
        (rank,) = wait_for(lambda: [rank for rank in ranks(run) if rank.pid and rank.state == "ALIVE"], "rank 1")
        wait_for(lambda: len(rows(metrics)) >= after, f"{after} steps")
        os.kill(rank.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    return killer


@pytest.mark.slow  # a lost rank is named in tests/actors/test_rank_group.py; a lost learner is replaced in test_lost_learner.py
def test_a_killed_rank_is_replaced_and_the_student_is_the_same(on_standing, expected):
    config = on_standing("learner.ranks=2", "checkpoint.every=3", "run.name=killed", "run.steps=16")
    killer = killing("killed", config.folder / METRICS, after=4)
    shown = io.StringIO()
    outcome = distributed(config, shown=shown)
    killer.join()
    assert len(ranks("killed")) == 2, "the killed one and its successor"
    assert outcome is not None
    assert outcome.weights.checksum == expected("run.steps=16")
    assert sorted(trained_ids(config.folder)) == list(range(16 * 12))
    said = shown.getvalue()
    assert "warning: learner ranks that ended: [1], that did not come: none" in said
    assert "all ranks are started anew, and the run continues from step 3" in said


@pytest.mark.slow
def test_ranks_that_are_lost_after_the_last_step_cost_nothing(on_standing):
    """But that the trained student isn't compared with the one that rolls out."""
    config = on_standing("learner.ranks=2", "run.name=late", "run.steps=2")
    learner = start_learner(checked_parts(config), Origin())
    try:
        ray.get(learner.train.remote())
        (rank,) = [rank for rank in ranks("late") if rank.state == "ALIVE"]
        os.kill(rank.pid, signal.SIGKILL)
        ray.get(learner.record_skills.remote(2, {}, np.zeros((3, 8, 8), dtype=np.float32)))
        weights, _ = ray.get(learner.student.remote())
        (warning,) = ray.get(learner.progress.remote()).warnings
    finally:
        end(learner)
    assert weights.policy_version == 2
    assert "rollout_mismatch" not in rows(config.folder / SKILLS)[-1]
    assert warning.startswith("the trained student is not compared with the one that rolls out: learner ranks that ended: [1]")


@pytest.mark.slow
def test_a_rank_lost_before_the_first_checkpoint_returns_to_what_the_run_continues_from(on_standing, expected, tmp_path):
    first = on_standing("run.steps=4", "checkpoint.every=4", "learner.ranks=2", "run.name=first")
    trained(first)
    saved = shutil.move(checkpoint.newest(first.folder / "checkpoints"), tmp_path)
    config = on_standing("learner.ranks=2", "checkpoint.every=16", "run.name=continued", "run.steps=16")
    killer = killing("continued", config.folder / METRICS, after=2)
    student = trained(config, resume=Path(saved))
    killer.join()
    assert len(ranks("continued")) == 2, "the killed one and its successor"
    assert student.checksum == expected("run.steps=16")
    assert sorted(trained_ids(config.folder)) == list(range(4 * 12, 16 * 12))


@pytest.mark.slow
def test_a_killed_rank_of_a_shared_student_is_replaced_and_the_student_is_the_same(on_standing):
    full = ("student={type: full}", "learner.ranks=2", "learner.shard=true", "checkpoint.every=3", "run.steps=16")
    undisturbed = trained(on_standing("run.name=whole", *full))
    config = on_standing("run.name=shot", *full)
    killer = killing("shot", config.folder / METRICS, after=4)
    student = trained(config)
    killer.join()
    assert len(ranks("shot")) == 2, "the killed one and its successor"
    assert student.checksum == undisturbed.checksum
