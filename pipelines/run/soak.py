"""A long run whose processes are measured while it goes on: memory, open files and threads of each must stay as they are."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
from markupsafe import Markup

from actors.journal import METRICS, rows
from fields.atomic import write_text
from pipelines.config.run import RunConfig
from pipelines.reports.charts import Line, line_chart, linear_axis
from pipelines.reports.page import template

_EVERY_S = 5.0
_SHARED = Path("/dev/shm")
_STORE = "object store"
_RAYS_RECORD = "RAY_task_events_max_num_task_in_gcs"  # of the last tasks: 100,000, which a run of minutes doesn't fill
_MIB = 2**20
_PARTIES = (
    (re.compile(r"ray::Learner(?!Rank)"), "learner"),
    (re.compile(r"ray::LearnerRank"), "learner's ranks"),
    (re.compile(r"ray::RolloutWorker"), "rollout workers"),
    (re.compile(r"ray::ServeReplica:[^:]*:encoder"), "encoder"),
    (re.compile(r"ray::ServeReplica:"), "experts"),
    (re.compile(r"ray::(ServeController|ProxyActor)"), "Serve's controller and proxy"),
    (re.compile(r".*gcs_server"), "Ray's GCS"),
    (re.compile(r".*raylet/raylet"), "Ray's raylet"),
    (re.compile(r".*pipelines\.distill"), "driver"),
)
_ALLOWED = {"mib": (1.05, 8.0), "files": (1.0, 8.0), "threads": (1.0, 8.0)}  # growth that is none: a factor, and so much more


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the processes of one party hold at one moment, all together: mebibytes of their own, open files, threads."""

    step: int
    party: str
    mib: float
    files: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A measure of a party in the second quarter of the run and in the last one, each the median."""

    party: str
    measure: str
    before: float
    after: float

    @property
    def flat(self) -> bool:
        """Whether the party holds no more at the end."""
        factor, more = _ALLOWED[self.measure]
        return self.after <= self.before * factor + more


def soak(config: RunConfig, path: Path, overrides: Sequence[str]) -> tuple[int, list[Measured]]:
    """Run a configuration from its beginning and measure it; the exit status, and what was measured in the order of time."""
    measured: list[Measured] = []
    command = [sys.executable, "-m", "pipelines.distill", str(path), *overrides, "--resume", "never"]
    run = subprocess.Popen(command, env={**os.environ, _RAYS_RECORD: "1000"})
    try:
        while run.poll() is None:
            if recorded := rows(config.folder / METRICS):
                measured += measure(psutil.Process(run.pid), recorded[-1]["step"] + 1)
            with suppress(subprocess.TimeoutExpired):
                run.wait(_EVERY_S)
    finally:
        if run.poll() is None:
            run.terminate()
            run.wait()
    return run.returncode, measured


def measure(driver: psutil.Process, step: int) -> list[Measured]:
    """All parties now; who ends meanwhile is not counted."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    with suppress(psutil.NoSuchProcess):
        for process in [driver, *driver.children(recursive=True)]:
            with suppress(psutil.Error):
                if party := _party(" ".join(process.cmdline())):
                    held = process.memory_full_info().uss / _MIB, process.num_fds(), process.num_threads()
                    sums[party] = [sum(pair) for pair in zip(sums[party], held, strict=True)]
    found = [
        Measured(step=step, party=party, mib=mib, files=int(files), threads=int(threads))
        for party, (mib, files, threads) in sums.items()
    ]
    shared = psutil.disk_usage(str(_SHARED)).used / _MIB
    return [*found, Measured(step=step, party=_STORE, mib=shared, files=0, threads=0)]


def _party(command: str) -> str | None:
    return next((party for pattern, party in _PARTIES if pattern.match(command)), None)


def growths(measured: Sequence[Measured], steps: int) -> list[Growth]:
    """Of every measure of every party that was there in both quarters."""
    found = []
    for party, of_party in _by_party(measured).items():
        second = [one for one in of_party if steps / 4 <= one.step < steps / 2]
        last = [one for one in of_party if steps * 3 / 4 <= one.step]
        for name in _ALLOWED if second and last else ():
            before, after = (median(getattr(one, name) for one in quarter) for quarter in (second, last))
            found.append(Growth(party=party, measure=name, before=before, after=after))
    return found


def write_soak(folder: Path, name: str, measured: Sequence[Measured]) -> Path:
    """soak.html and soak.json in a run's folder; returns the page."""
    write_text(folder / "soak.json", json.dumps([asdict(one) for one in measured], indent=1))
    by_party = _by_party(measured)
    charts = [
        _chart(title, {party: [(one.step, getattr(one, measure)) for one in own] for party, own in by_party.items()})
        for title, measure in (("Memory of its own, MiB", "mib"), ("Open files", "files"), ("Threads", "threads"))
    ]
    write_text(
        folder / "soak.html", template("soak.html.template").render(name=name, charts=[Markup(chart) for chart in charts])
    )
    return folder / "soak.html"


def _by_party(measured: Sequence[Measured]) -> Mapping[str, list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for one in measured:
        found.setdefault(one.party, []).append(one)
    return found


def _chart(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    drawn = {party: points for party, points in series.items() if any(y for _, y in points)}
    lines = [Line(label=party, points=points, colour=number) for number, (party, points) in enumerate(drawn.items())]
    xs, ys = ([point[axis] for points in drawn.values() for point in points] for axis in (0, 1))
    steps = linear_axis("optimizer steps", min(xs), max(xs))
    return line_chart(title, f"{title} over the steps, a line per party", lines, steps, linear_axis(title, 0, max(ys)))
