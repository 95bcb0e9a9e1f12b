"""What befalls the command from outside: a request to stop with little time, a full object store, nodes that take objects away,
a clock that is set.
Each run ends as the undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from moved_clock import MovedClock
from waiting import LIMIT_S, wait_for

from actors.journal import METRICS, rows
from pipelines.config.run import RunConfig
from pipelines.run.chaos_nodes import OTHER, ROLE, Nodes
from pipelines.run_folder.find import newest_step
from runs import reference, trained_ids

SETTINGS = ["run.steps=24", "learner.lag=1", "rollout.workers=1"]
FILLER = """
import sys
import numpy as np
import ray
from ray._private.internal_api import memory_summary
ray.init(sys.argv[1], log_to_driver=False)
held = [ray.put(np.zeros(30_000_000, np.uint8)) for _ in range(8)]
print("Spilled" in memory_summary(stats_only=True), flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def command(config_file: Path, make_config) -> Callable[..., tuple[list[str], RunConfig]]:
    """The command of a run that is called "struck", and its configuration."""

    def of(*settings: str) -> tuple[list[str], RunConfig]:
        given = [*SETTINGS, *settings, "run.name=struck"]
        return [sys.executable, "-m", "pipelines.distill", str(config_file), *given, "--supervise"], make_config(*given)

    return of


def steps(config: RunConfig) -> int:
    return len(rows(config.folder / METRICS))


def require_same_student(config: RunConfig, make_config, *settings: str) -> None:
    """The finished run has the student of the undisturbed one, and trained on every sample once."""
    undisturbed = reference(make_config(*SETTINGS, *settings, "run.name=reference"))
    summary = json.loads((config.folder / "summary.json").read_text())
    assert summary["weights_sha256"] == undisturbed.weights.checksum
    ids = trained_ids(config.folder)
    assert sorted(ids) == list(range(len(ids)))
    assert len(ids) == config.run.steps * config.learner.batch_size


@pytest.mark.parametrize(("asks", "grace_s"), [(os.killpg, 0.3), (os.killpg, 3), (os.kill, 120)])
def test_a_request_to_stop_and_its_end(command, make_config, asks: Callable[[int, int], None], grace_s: float):
    """SIGTERM, and SIGKILL to every process that is left: what a pod sees that is taken away, where the command alone is asked,
    and what a batch system does, which asks every process of the job: Ray's own too, so that there is no time to save."""
    arguments, config = command("checkpoint.every=10")
    process = subprocess.Popen(arguments, start_new_session=True)
    wait_for(lambda: steps(config) >= 4, "four steps")
    asks(process.pid, signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if asks is os.kill:
        assert process.returncode == 128 + signal.SIGTERM
        assert newest_step(config.folder) == steps(config), "nothing that was trained is trained again"
    assert subprocess.run(arguments, check=False, timeout=LIMIT_S).returncode == 0
    require_same_student(config, make_config, "checkpoint.every=10")


def test_a_full_object_store(command, make_config, monkeypatch: pytest.MonkeyPatch):
    """Somebody else's objects fill it, so that Ray writes objects to disk, and reads them again."""
    large = "learner.batch_size=36", "rollout.group_size=12"
    arguments, config = command(*large)
    monkeypatch.setenv("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES", str(80 * 2**20))
    with Nodes() as nodes:
        fill = [sys.executable, "-c", FILLER, nodes.address]
        filler = subprocess.Popen(fill, env=nodes.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert filler.stdout is not None
        assert filler.stdout.readline() == "True\n"
        run = subprocess.run([*arguments, "--address", nodes.address], env=nodes.environment, check=False, timeout=LIMIT_S)
        assert run.returncode == 0
        assert filler.poll() is None, "it held its objects to the end"
        filler.communicate("")
    require_same_student(config, make_config, *large)


@pytest.mark.parametrize("lost", ["rollout", "learner"])
def test_objects_that_are_lost_with_their_node(command, make_config, lost: str):
    """Queries are on the workers' node, versions and all ownership are the learner's; each is large enough to be an object."""
    large = "learner.batch_size=36", "rollout.group_size=12"
    arguments, config = command(*large, f"{lost}.node_labels={{{ROLE}: {OTHER}}}")
    with Nodes() as nodes:
        process = subprocess.Popen([*arguments, "--address", nodes.address], env=nodes.environment)

        def strike() -> None:
            for after in (5, 14):
                wait_for(lambda after=after: process.poll() is not None or steps(config) >= after, f"{after} steps")
                nodes.lose(OTHER)
                nodes.start()

        striking = threading.Thread(target=strike)
        striking.start()
        assert process.wait(LIMIT_S) == 0
        striking.join()
    require_same_student(config, make_config, *large)


def test_a_wall_clock_that_is_set(command, make_config, tmp_path: Path):
    """Forward by an hour, back by a day, and right again: a wait until a time of day would end at once, or last a day."""
    settings = "run.steps=90", "checkpoint.every=2", "run.watchdog_s=20"
    (arguments, config), clock = command(*settings), MovedClock(tmp_path)
    process = subprocess.Popen(arguments, env={**os.environ, **clock.environment}, stdout=subprocess.PIPE, text=True)
    for after, by in ((20, timedelta(hours=1)), (45, timedelta(days=-1)), (70, timedelta(0))):
        wait_for(lambda after=after: process.poll() is not None or steps(config) >= after, f"{after} steps")
        assert {"raylet", "gcs_server", "ray::Learner", "ray::RolloutWor", "ray::ServeRepli"} <= clock.processes()
        clock.move(by)
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert "no step for" not in said
    require_same_student(config, make_config, *settings)
