"""A run whose machine's wall clock is set, forward and back, while it trains."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from moved_clock import MovedClock
from waiting import LIMIT_S, wait_for

from actors.journal import METRICS, rows
from runs import reference, trained_ids

CLOCKS = """
import sys, time
wall, steady = time.time(), time.monotonic()
print("ready", flush=True)
sys.stdin.readline()
print(time.time() - wall - (time.monotonic() - steady))
"""


@pytest.fixture
def clock(tmp_path: Path) -> MovedClock:
    return MovedClock(tmp_path)


def test_the_wall_clock_alone_is_moved(clock: MovedClock):
    process = subprocess.Popen(
        [sys.executable, "-c", CLOCKS],
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    clock.move(timedelta(hours=-2))
    moved, _ = process.communicate("\n")
    assert float(moved) == pytest.approx(-7200, abs=0.01)


@pytest.mark.slow
def test_the_student_is_the_same(config_file: Path, make_config, clock: MovedClock):
    """Forward by an hour, back by a day, and right again: a wait until a time of day would end at once, or last a day."""
    settings = "run.steps=90", "learner.lag=1", "checkpoint.every=2", "run.watchdog_s=20"
    config = make_config(*settings, "run.name=moved")
    command = [sys.executable, "-m", "pipelines.distill", str(config_file), *settings, "run.name=moved", "--supervise"]
    process = subprocess.Popen(command, env={**os.environ, **clock.environment}, stdout=subprocess.PIPE, text=True)

    def steps() -> int:
        return len(rows(config.folder / METRICS))

    for after, by in ((20, timedelta(hours=1)), (45, timedelta(days=-1)), (70, timedelta(0))):
        wait_for(lambda after=after: process.poll() is not None or steps() >= after, f"{after} steps")
        assert {"raylet", "gcs_server", "ray::Learner", "ray::RolloutWor", "ray::ServeRepli"} <= clock.processes()
        clock.move(by)
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert "no step for" not in said
    summary = json.loads((config.folder / "summary.json").read_text())
    assert summary["weights_sha256"] == reference(make_config(*settings, "run.name=reference")).weights.checksum
    assert sorted(trained_ids(config.folder)) == list(range(90 * 12))
