"""A run that makes no step: after how long that is said, and what is said then."""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
from ray.exceptions import RayError
from ray.util.state.exception import RayStateApiException

from pipelines.cluster.connect import live_actors

_MOST_WAITS = 12
_STACK_S = 10.0
_INNERMOST = 4  # calls of a stack


class Standstill:
    """Notices that no step is made; once after the watchdog's time, then after twice, four times, ... of it."""

    def __init__(self, watchdog_s: float):
        self._watchdog_s = self._next_s = watchdog_s
        self._step: int | None = None
        self._since = time.monotonic()

    def seconds(self, step: int) -> float | None:
        """How long this step has been the last, if that should be said now."""
        now = time.monotonic()
        if step != self._step:
            self._step, self._since, self._next_s = step, now, self._watchdog_s
        if now - self._since < self._next_s:
            return None
        self._next_s *= 2
        return now - self._since


@dataclass(frozen=True, slots=True)
class RunProcess:
    """A process of a run on this machine: the name of its actor, and its process id."""

    name: str
    pid: int


def processes_here(run: str, applications: Sequence[str]) -> list[RunProcess]:
    """The run's actors and the replicas of these applications that Ray says live on this machine; none if it doesn't answer."""
    ours = re.compile(rf"{re.escape(run)}/|SERVE_REPLICA::({'|'.join(map(re.escape, applications))})#")
    with suppress(RayError, RayStateApiException, OSError):
        here = ray.get_runtime_context().get_node_id()
        found = [actor for actor in live_actors() if actor.node_id == here and ours.match(actor.name)]
        return sorted((RunProcess(actor.name, actor.pid) for actor in found), key=lambda process: process.name)
    return []


def screen(step: int, seconds: float, waits: Sequence[str], processes: Sequence[RunProcess]) -> str:
    """Who waits for whom, and what the processes of this machine are doing.

    Args:
        step: the optimizer steps that are done.
        seconds: since the last.
        waits: what the learner waits for, a line each.
        processes: of the run, on this machine.
    """
    lines = [f"no step for {seconds:.0f} s after step {step}; waited for:"]
    lines += [f"  {wait}" for wait in waits[:_MOST_WAITS]] or ["  nothing that the learner knows of"]
    if len(waits) > _MOST_WAITS:
        lines.append(f"  and {len(waits) - _MOST_WAITS} more")
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            lines.append(f"  {process.name}, process {process.pid}, is {psutil.Process(process.pid).status()}")
            lines += [f"      {call}" for call in _stack(process.pid)]
    return "\n".join(lines)


def _stack(pid: int) -> list[str]:
    """The innermost calls of a process's threads that compute, where py-spy, which comes with Ray, may look at them."""
    looking = [str(Path(sys.executable).with_name("py-spy")), "dump", "--nonblocking", "--pid", str(pid)]
    try:
        said = subprocess.run(looking, check=False, capture_output=True, text=True, timeout=_STACK_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    threads = re.split(r"^Thread ", said, flags=re.MULTILINE)[1:]
    return [call.strip() for name, *calls in map(str.splitlines, threads) if "(active" in name for call in calls[:_INNERMOST]]
