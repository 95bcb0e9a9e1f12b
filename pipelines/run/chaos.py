"""A supervised run whose processes are killed and frozen while it goes on, beside one that nobody disturbs."""

import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from rich.table import Table

from actors.journal import METRICS, rows
from fields.method.plan import Stream, generator
from pipelines.config.errors import ConfigError
from pipelines.config.run import RunConfig

_POLL_S = 0.1
_WATCHDOG_S = 20  # of the disturbed run: how long a frozen learner may be silent
_DRIVER = "driver"


@dataclass(frozen=True, slots=True)
class Kind:
    """What can happen: the signal, and whose; `process` is found in the command line of processes of the run."""

    name: str
    process: str
    sent: signal.Signals = signal.SIGKILL


KINDS = (
    Kind("a rollout worker is killed", r"ray::RolloutWorker"),
    Kind("an expert's replica is killed", r"ray::ServeReplica:.*-(?!encoder)\w+:"),
    Kind("the encoder's replica is killed", r"ray::ServeReplica:.*-encoder:"),
    Kind("the learner is killed", r"ray::Learner(\.|$)"),
    Kind("the learner is frozen", r"ray::Learner(\.|$)", signal.SIGSTOP),
    Kind("the driver is killed, and its cluster with it", _DRIVER),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens once so many steps are recorded."""

    step: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Survived:
    """A fault that happened, and the seconds until a step was recorded that had not been recorded before."""

    fault: Fault
    seconds: float


def planned_faults(seed: int, number: int, steps: int) -> list[Fault]:
    """Every kind in turn, in an order and at steps that the seed decides."""
    rng = generator(seed, Stream.FAULT, 0)
    kinds = [KINDS[n % len(KINDS)] for n in rng.permutation(number)]
    early = max(number, steps * 9 // 10)  # so that the run isn't over before the last
    moments = sorted(rng.choice(early, number, replace=False).tolist())
    return [Fault(moment, kind) for moment, kind in zip(moments, kinds, strict=True)]


class Runs:
    """The commands and the folders of both runs."""

    def __init__(self, config: RunConfig, path: Path, overrides: Sequence[str]):
        self._config = config
        self._command = [sys.executable, "-m", "pipelines.distill", str(path), *overrides, "eval.every=0"]

    def command(self, name: str, *options: str) -> list[str]:
        """What starts one of them anew."""
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

    @property
    def weights(self) -> str:
        """The SHA-256 of the disturbed run's student."""
        return self.weights_of("chaos")

    def weights_of(self, name: str) -> str:
        """The SHA-256 of a finished run's student."""
        found = re.search(r'"weights_sha256": "(\w+)"', (self._folder(name) / "summary.json").read_text())
        assert found, "a finished run has a summary"
        return found[1]

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
    if (
        status := subprocess.run(runs.command("undisturbed", "--reference", "checkpoint.mirror=null"), check=False).returncode
    ) != 0:
        raise ConfigError(f"the undisturbed run ended with status {status}")
    return runs.weights_of("undisturbed")


def disturbed(runs: Runs, faults: Sequence[Fault], say: Callable[[str], None]) -> list[Survived]:
    """Run it to its end while the faults happen.

    Raises:
        ConfigError: if the run ends otherwise than well; it has said why.
    """
    survived = []
    runs.clear()
    run = subprocess.Popen(runs.command("chaos", "--supervise", f"run.watchdog_s={_WATCHDOG_S}"))
    try:
        for fault in faults:
            process = _until(lambda fault=fault: runs.steps >= fault.step and _victim(run.pid, fault.kind), run)
            if process is None:
                break
            reached = runs.steps
            try:
                process.send_signal(fault.kind.sent)
            except psutil.NoSuchProcess:  # it ended by itself, as the driver does with its last step
                break
            began = time.monotonic()
            say(f"chaos: after step {reached}, {fault.kind.name}")
            _until(partial(_has_more, runs, reached), run)
            survived.append(Survived(fault, time.monotonic() - began))
        status = run.wait()
    finally:
        _end(run)
    if status != 0:
        raise ConfigError(f"the disturbed run ended with status {status}")
    return survived


def fault_table(survived: Sequence[Survived]) -> Table:
    """Each kind of fault with its number, and the seconds until the run went on."""
    table = Table(title="What happened, and the seconds until the next new step")
    for column in ("fault", "times", "median s", "longest s"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for kind in KINDS:
        seconds = [each.seconds for each in survived if each.fault.kind == kind]
        if seconds:
            table.add_row(kind.name, str(len(seconds)), f"{statistics.median(seconds):.0f}", f"{max(seconds):.0f}")
    return table


def _has_more(runs: Runs, steps: int) -> bool:
    return runs.steps > steps


def _until(condition: Callable[[], psutil.Process | bool | None], run: "subprocess.Popen[bytes]") -> psutil.Process | None:
    """The process that is found once there is one; None for anything else, or if the run ends before."""
    while run.poll() is None:
        if found := condition():
            return found if isinstance(found, psutil.Process) else None
        time.sleep(_POLL_S)
    return None


def _end(run: "subprocess.Popen[bytes]") -> None:
    """End the supervisor, the driver and its cluster, if they are still there."""
    if run.poll() is None:
        everyone = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
        for process in everyone:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        run.wait()


def _victim(supervisor: int, kind: Kind) -> psutil.Process | None:
    """The process of a supervised run that a fault strikes: the driver, or the first of its descendants of the kind."""
    with suppress(psutil.Error):  # who is looked at may end meanwhile
        for driver in psutil.Process(supervisor).children():  # one, or none while it is started again
            if kind.process == _DRIVER:
                return driver
            for process in sorted(driver.children(recursive=True), key=lambda process: process.pid):
                if re.search(kind.process, " ".join(process.cmdline())):
                    return process
    return None
