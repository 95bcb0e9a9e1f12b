"""What a test's wall clock does to a process that preloads it."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from moved_clock import MovedClock

CLOCKS = """
import sys, time
wall, steady = time.time(), time.monotonic()
print("ready", flush=True)
sys.stdin.readline()
print(time.time() - wall - (time.monotonic() - steady))
"""


def test_the_wall_clock_alone_is_moved(tmp_path: Path):
    clock = MovedClock(tmp_path)
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
