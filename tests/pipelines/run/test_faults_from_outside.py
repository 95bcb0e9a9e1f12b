"""What befalls the command from outside: a request to stop with little time, a clock that is moved, a store that is full, nodes
that take objects along. Each run ends as the undisturbed one, with nobody's help."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import LIMIT_S, wait_for

from actors.journal import METRICS, rows
from pipelines.config.run import RunConfig
from pipelines.run.chaos_nodes import OTHER, ROLE, Nodes
from pipelines.run_folder.find import newest_step
from runs import reference, trained_ids

SETTINGS = ["run.steps=24", "learner.lag=1", "rollout.workers=1"]
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
FILLER = """
import sys, time
import numpy as np
from ray._private.internal_api import memory_summary
from pipelines.cluster.connect import clusters_here, join
import ray
(address,) = clusters_here()
assert join(address, print)
held = []
for line in sys.stdin:
    held.append(ray.put(np.zeros(30_000_000, np.uint8)))
    print("Spilled" in memory_summary(stats_only=True), flush=True)
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


@pytest.mark.parametrize("grace_s", [0.3, 3, 120])
def test_a_request_to_stop_and_its_end(command, make_config, grace_s: float):
    """SIGTERM to every process of the command, and SIGKILL to those that are left: what a pod that is taken away sees."""
    arguments, config = command("checkpoint.every=10")
    process = subprocess.Popen(arguments, start_new_session=True)
    wait_for(lambda: steps(config) >= 4, "four steps")
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    saved = newest_step(config.folder)
    if grace_s == 120:
        assert process.returncode == 128 + signal.SIGTERM
        assert saved == steps(config), "nothing that was trained is trained again"
    assert subprocess.run([*arguments, *(["--resume"] if saved else [])], check=False, timeout=LIMIT_S).returncode == 0
    require_same_student(config, make_config, "checkpoint.every=10")


@pytest.mark.skipif(not FAKETIME.exists(), reason="a clock of its own needs Debian's package faketime")
def test_a_clock_that_is_moved(command, make_config, tmp_path: Path):
    """A day ahead, and then two back, as a wrong time server does: of all processes, the clock that has a date."""
    arguments, config = command()
    clock = tmp_path / "clock"
    clock.write_text("+0")
    moved = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_CACHE_DURATION": "1"}
    process = subprocess.Popen(arguments, env={**os.environ, **moved, "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    for after, offset in ((6, "+1d"), (12, "-1d")):
        wait_for(lambda after=after: process.poll() is not None or steps(config) >= after, f"{after} steps")
        clock.write_text(offset)
    assert process.wait(LIMIT_S) == 0
    require_same_student(config, make_config)


def test_a_full_object_store(command, make_config):
    """Somebody else's objects fill it, so that Ray writes objects to disk, and reads them again."""
    arguments, config = command("run.steps=60", "learner.batch_size=36", "rollout.group_size=12")
    small = {**os.environ, "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(80 * 2**20)}
    process = subprocess.Popen(arguments, env=small)
    wait_for(lambda: process.poll() is not None or steps(config) >= 3, "three steps")
    filler = subprocess.Popen([sys.executable, "-c", FILLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert filler.stdin is not None
    assert filler.stdout is not None
    spilled = []
    for _ in range(12):
        filler.stdin.write("more\n")
        filler.stdin.flush()
        spilled.append(filler.stdout.readline())
    assert spilled[-1] == "True\n"
    assert steps(config) < config.run.steps, "it was filled while the run went on"
    assert process.wait(LIMIT_S) == 0
    filler.communicate()
    require_same_student(config, make_config, "run.steps=60", "learner.batch_size=36", "rollout.group_size=12")


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
