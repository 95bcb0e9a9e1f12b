"""Ends the runs whose drivers are on this node, for a pod's preStop hook: `python -m pipelines.drain`.

Each driver gets SIGTERM. A run that trains saves a checkpoint at its next step and fails with status 143, so that whoever
watches over the job starts it again, from that step. Returns when all drivers are gone; the pod's grace period is the limit.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import psutil

_DRIVER = ("-m", "pipelines.distill")


def drivers() -> list[psutil.Process]:
    """The processes of this machine that drive a run, or supervise one that does."""
    return [process for process in psutil.process_iter(["cmdline", "ppid"]) if _drives(process.info["cmdline"] or [])]


def _drives(command: list[str]) -> bool:
    return _DRIVER in pairwise(command)


def main(arguments: Sequence[str]) -> None:
    """Ask the drivers to stop, and wait until they have."""
    argparse.ArgumentParser(prog="python -m pipelines.drain", description=__doc__).parse_args(arguments)
    asked = {driver.pid: driver for driver in drivers()}
    runs = sum(driver.info["ppid"] not in asked for driver in asked.values())  # a supervised driver is its supervisor's
    for driver in asked.values():
        with suppress(psutil.NoSuchProcess):  # its supervisor, asked before it, has passed that on
            driver.terminate()
    psutil.wait_procs(list(asked.values()))
    print(f"{runs} runs ended")


if __name__ == "__main__":
    main(sys.argv[1:])
