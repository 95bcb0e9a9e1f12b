"""A supervised run whose processes are killed and frozen while it goes on, beside one that nobody disturbs."""

import shutil
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from actors.journal import METRICS, rows
from fields.method.plan import Stream, generator
from pipelines.config.errors import ConfigError
from pipelines.config.run import ENCODER, RunConfig
from pipelines.run.chaos_kinds import Kind, Target, kinds
from pipelines.run.chaos_nodes import OTHER, ROLE, Nodes, kill_with_descendants
from pipelines.run_folder.summary import read_summary

_POLL_S = 0.1
_WATCHDOG_S = 20  # of the disturbed run: how long a frozen process may be silent


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens once so many steps are recorded."""

    step: int
    kind: Kind


@dataclass(slots=True)
class Survived:
    """A fault that happened, and the longest time without a new step from then until the next fault, or the last step."""

    fault: Fault
    pause_s: float = 0.0


def planned_faults(seed: int, number: int, steps: int, possible: Sequence[Kind]) -> list[Fault]:
    """Every possible kind in turn, in an order and at steps that the seed decides; several may come at one step."""
    rng = generator(seed, Stream.FAULT, 0)
    drawn = [possible[n % len(possible)] for n in rng.permutation(number)]
    moments = sorted(rng.integers(0, max(1, steps * 3 // 4), number).tolist())  # so that the run isn't over before the last
    return [Fault(moment, kind) for moment, kind in zip(moments, drawn, strict=True)]


class Runs:
    """The commands and the folders of both runs.

    Args:
        config: of both.
        path: of its file.
        overrides: of what stands there.
        nodes: the cluster that the disturbed run joins: its services and rollout workers are on the node that isn't the head.
            None lets it start its own.
    """

    def __init__(self, config: RunConfig, path: Path, overrides: Sequence[str], nodes: Nodes | None = None):
        self._config = config
        self._nodes = nodes
        self._command = [sys.executable, "-m", "pipelines.distill", str(path), *overrides, "eval.every=0"]

    @property
    def possible(self) -> Sequence[Kind]:
        """What can happen to the disturbed one."""
        return kinds(self._nodes is not None, self._config.learner.ranks > 1, self._mirror is not None)

    @property
    def _mirror(self) -> Path | None:
        mirror = self._config.checkpoint.mirror
        return None if mirror is None or "://" in mirror else Path(mirror)

    def undisturbed(self) -> "subprocess.Popen[bytes]":
        """Start the plain loop."""
        return subprocess.Popen(self._new("undisturbed", "--reference", "checkpoint.mirror=null"))

    def disturbed(self) -> "subprocess.Popen[bytes]":
        """Start the other, supervised."""
        options = ["--supervise", f"run.watchdog_s={_WATCHDOG_S}"]
        if self._nodes is None:
            return subprocess.Popen(self._new("chaos", *options))
        sections = [ENCODER, "rollout", *(f"experts.{name}" for name in self._config.experts)]
        places = [f"{section}.node_labels={{{ROLE}: {OTHER}}}" for section in sections]
        joining = ["--address", self._nodes.address]
        return subprocess.Popen(self._new("chaos", *options, *places, *joining), env=self._nodes.environment)

    def target(self, run: "subprocess.Popen[bytes]") -> Target:
        """What faults strike."""
        return Target(run.pid, self._nodes, self._mirror)

    def _new(self, name: str, *options: str) -> list[str]:
        return [*self._command, f"run.name={self._folder(name).name}", "--resume", "never", *options]

    def _folder(self, name: str) -> Path:
        return self._config.folder.with_name(f"{self._config.run.name}-{name}")

    def clear(self) -> None:
        """Delete what an earlier disturbed run left, which would be taken for this one's."""
        shutil.rmtree(self._folder("chaos"), ignore_errors=True)

    @property
    def steps(self) -> int:
        """That the disturbed run has recorded now."""
        recorded = rows(self._folder("chaos") / METRICS)
        return recorded[-1]["step"] + 1 if recorded else 0

    def finished(self, steps: int) -> bool:
        """Whether there are no more steps than so many."""
        return steps >= self._config.run.steps

    @property
    def weights(self) -> str:
        """The SHA-256 of the disturbed run's student."""
        return self.weights_of("chaos")

    def weights_of(self, name: str) -> str:
        """The SHA-256 of a finished run's student."""
        summary = read_summary(self._folder(name))
        assert summary is not None, "a finished run has a summary"
        return summary.weights_sha256

    @property
    def all_once(self) -> bool:
        """Whether the disturbed run trained on every sample of the plan, and on none twice."""
        ids = [number for row in rows(self._folder("chaos") / METRICS) for number in row["sample_ids"]]
        return sorted(ids) == list(range(self._config.run.steps * self._config.learner.batch_size))


def undisturbed(runs: Runs) -> str:
    """The SHA-256 of the student of the plain loop.

    Raises:
        ConfigError: if the run ends otherwise than well; it has said why.
    """
    if (status := runs.undisturbed().wait()) != 0:
        raise ConfigError(f"the undisturbed run ended with status {status}")
    return runs.weights_of("undisturbed")


def disturbed(runs: Runs, faults: Sequence[Fault], say: Callable[[str], None]) -> list[Survived]:
    """Run it to its end while the faults happen.

    Raises:
        ConfigError: if the run ends otherwise than well; it has said why.
    """
    survived: list[Survived] = []
    waiting = deque(faults)
    runs.clear()
    run = runs.disturbed()
    target, reached, since = runs.target(run), 0, time.monotonic()
    try:
        while (status := run.poll()) is None:
            if (steps := runs.steps) > reached:
                reached, since = steps, time.monotonic()
            while waiting and reached >= waiting[0].step:
                began = time.monotonic()
                if not waiting[0].kind.strike(target):
                    break  # nobody is there yet who can be struck
                since = began
                survived.append(Survived(waiting.popleft()))
                say(f"chaos: after step {reached}, {survived[-1].fault.kind.name}")
            for last in survived:
                if last.fault.step == survived[-1].fault.step and not runs.finished(reached):
                    last.pause_s = max(last.pause_s, time.monotonic() - since)
            time.sleep(_POLL_S)
    finally:
        if run.poll() is None:
            kill_with_descendants(run.pid)
            run.wait()
    if status != 0:
        raise ConfigError(f"the disturbed run ended with status {status}")
    return survived


def fault_table(survived: Sequence[Survived], possible: Sequence[Kind]) -> Table:
    """Each kind of fault with its number, and how long the run stood still for it."""
    table = Table(title="What happened, and the longest pause between new steps after it")
    for column in ("fault", "times", "median s", "longest s"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for kind in possible:
        seconds = [each.pause_s for each in survived if each.fault.kind == kind]
        if seconds:
            table.add_row(kind.name, str(len(seconds)), f"{statistics.median(seconds):.0f}", f"{max(seconds):.0f}")
    return table
