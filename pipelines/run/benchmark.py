"""Timing the parts of a step in one process, then whole runs, interleaved."""

import io
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from actors.journal import METRICS, rows
from pipelines.config.load import load_config
from pipelines.config.run import RunConfig
from pipelines.parts.check_files import checked_parts
from pipelines.parts.pace import CORES, LEARNER, Pace, StepSeconds
from pipelines.parts.run_parts import RunParts
from pipelines.reports.measurement import Measurement, spread
from pipelines.reports.page import percent
from pipelines.run.part_times import part_times
from pipelines.watch.progress import Display

WARM_STEPS = 4  # left out of a run's timing: they fill the window


def measured(path: Path, parts: RunParts, steps: int, repeats: int) -> Iterator[Measurement]:
    """The parts of a step, then, when they are done, whole runs."""
    taken = part_times(parts, repeats)
    yield _of_parts(parts.config, taken)
    yield _of_runs(_runs(path, steps, repeats), _limit(parts.config, taken))


def _of_parts(config: RunConfig, taken: Sequence[StepSeconds]) -> Measurement:
    batch_size, threads = config.learner.batch_size, config.numerics.threads
    seconds = {
        "encode": [one.encode for one in taken],
        "rollout": [one.rollout for one in taken],
        "expert": [sum(one.experts.values()) for one in taken],
        "learner": [one.learner for one in taken],
        "publish": [one.beside for one in taken],
    }
    milliseconds = {part: [1000 * value / batch_size for value in values] for part, values in seconds.items()}
    return Measurement(
        name="parts",
        title=f"Parts of a step, ms a sample (batch {batch_size}, {threads} thread, {len(taken)} steps)",
        columns=["part", "median", "lowest", "highest"],
        rows=[[part, *spread(values)] for part, values in milliseconds.items()],
        raw={"milliseconds_per_sample": milliseconds},
    )


def _limit(config: RunConfig, taken: Sequence[StepSeconds]) -> float:
    """Samples a second if nothing were lost: all cores busy with the parts alone, or the one learner busy all the time."""
    limits = Pace.of(config, StepSeconds.median(taken), (os.cpu_count() or 1) / config.numerics.threads, {}).limits
    return config.learner.batch_size / max(limits[CORES], limits[LEARNER])


def _runs(path: Path, steps: int, repeats: int) -> dict[str, list[float]]:
    """Samples a second of whole runs on one set of services, the first steps left out."""
    import ray  # here: the parts are timed before a cluster is there to disturb them

    from pipelines.cluster import connect
    from pipelines.cluster.demands import RunDemands
    from pipelines.cluster.deployment import RunServices
    from pipelines.cluster.reserve import reserve
    from pipelines.run.distributed import run_distributed
    from pipelines.run.origin import Origin
    from pipelines.run.reference import run_reference

    if not ray.is_initialized():
        connect.start(print, include_dashboard=False)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        common = [f"run.dir={folder}", "run.services=bench", f"run.steps={steps}", "eval.every=0", "checkpoint.every=1000"]
        services = RunServices(RunParts(load_config(path, common)))
        services.deploy()
        try:
            for repeat in range(repeats):
                for name, lag in (("reference", 0), ("lag 0", 0), ("lag 1", 1), ("lag 2", 2)):
                    config = load_config(path, [*common, f"run.name={name.replace(' ', '-')}-{repeat}", f"learner.lag={lag}"])
                    display = Display(Console(file=io.StringIO()), 0, steps)
                    run_parts = checked_parts(config)
                    if name == "reference":
                        run_reference(run_parts, Origin(), display)
                    else:
                        reservation = reserve(RunDemands.of(config), 0, print)
                        run_distributed(run_parts, Origin(), display, reservation)
                    rates.setdefault(name, []).append(_rate(config.folder))
        finally:
            services.delete(wait=True)
    return rates


def _of_runs(rates: Mapping[str, Sequence[float]], limit: float) -> Measurement:
    rows = []
    for name, values in rates.items():
        ratios = [value / reference for value, reference in zip(values, rates["reference"], strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([name, *spread(values), ratio, percent(statistics.median(values) / limit)])
    return Measurement(
        name="runs",
        title=f"Whole runs, samples/s ({os.cpu_count()} cores, {len(rates['reference'])} repeats, interleaved; the limit "
        f"is {limit:.1f})",
        columns=["run", "median", "lowest", "highest", "ratio to reference", "of the limit"],
        rows=rows,
        raw={"samples_per_second": rates, "limit": limit},
    )


def _rate(folder: Path) -> float:
    journal = rows(folder / METRICS)
    timed = journal[WARM_STEPS:]
    return sum(row["samples"] for row in timed) / (journal[-1]["seconds"] - journal[WARM_STEPS - 1]["seconds"])
