"""Ends the runs whose drivers are on this node, for a pod's preStop hook: `python -m pipelines.drain`.

Each driver gets SIGTERM. A run that trains saves a checkpoint at its next step and fails with status 143, so that whoever
watches over the job starts it again, from that step. Returns when all drivers are gone; the pod's grace period is the limit.
"""

from itertools import pairwise

import psutil

_DRIVER = ("-m", "pipelines.distill")


def drivers() -> list[psutil.Process]:
    """The processes of this machine that drive a run."""
    return [process for process in psutil.process_iter(["cmdline"]) if _drives(process.info["cmdline"] or [])]


def _drives(command: list[str]) -> bool:
    return _DRIVER in pairwise(command)


def main() -> None:
    """Ask, wait, say so."""
    asked = drivers()
    for driver in asked:
        driver.terminate()
    psutil.wait_procs(asked)
    print(f"{len(asked)} runs ended")


if __name__ == "__main__":
    main()
