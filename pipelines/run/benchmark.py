"""Timing the parts of a step in one process, then whole runs, interleaved."""

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.table import Table

from actors.journal import METRICS, rows
from fields.carriers import Condition, Example
from pipelines.config.load import load_config
from pipelines.parts.check_files import checked_parts
from pipelines.parts.run_parts import RunParts
from pipelines.reports.page import percent
from pipelines.watch.progress import Display

P = ParamSpec("P")
T = TypeVar("T")

WARM_STEPS = 4  # left out of a run's timing: they fill the window


def tables(path: Path, parts: RunParts, steps: int, repeats: int) -> Iterator[Table]:
    """The table of the parts, then, when they are done, that of the whole runs."""
    milliseconds = _parts(parts, repeats)
    yield _parts_table(parts.config.learner.batch_size, parts.config.numerics.threads, milliseconds)
    yield _runs_table(_runs(path, steps, repeats), _limit(parts.config.numerics.threads, milliseconds))


def _parts(parts: RunParts, repeats: int) -> dict[str, list[float]]:
    """Milliseconds a sample of each part of a step, one process, one route after the other."""
    parts.config.numerics.build().settle()
    buckets, plan, family = parts.buckets, parts.plan, parts.encoder_family()
    policy, distiller = parts.policy(), parts.distiller()
    policy.load(distiller.weights(0))
    fields = {name: parts.field(route.expert) for name, route in parts.config.routes.items()}
    seconds: dict[str, list[float]] = {"encode": [], "rollout": [], "expert": [], "learner": [], "publish": []}

    def timed(part: str, function: Callable[P, T], *inputs: P.args, **options: P.kwargs) -> T:
        began = time.perf_counter()
        result = function(*inputs, **options)
        seconds[part][-1] += time.perf_counter() - began
        return result

    for step in range(repeats + 1):
        for values in seconds.values():
            values.append(0.0)
        examples = []
        for group in plan.groups(step):
            group_rows = [buckets[group.route][sample.row] for sample in group.samples]
            condition: Condition = timed("encode", family.encode, group_rows)
            for query in timed("rollout", policy.queries, group, condition):
                target = timed("expert", fields[group.route].answer, query)
                examples.append(Example(query=query, target=target))
        timed("learner", distiller.update, examples)
        timed("publish", distiller.weights, step + 1)
    return {part: [1000 * value / plan.batch_size for value in values[1:]] for part, values in seconds.items()}


def _parts_table(batch_size: int, threads: int, parts: Mapping[str, Sequence[float]]) -> Table:
    table = Table(title=f"Parts of a step, ms a sample (batch {batch_size}, {threads} thread)")
    for column in ("part", "median", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, values in parts.items():
        table.add_row(part, *_spread(values))
    return table


def _limit(threads: int, parts: Mapping[str, Sequence[float]]) -> float:
    """Samples a second if nothing were lost: all cores busy with the parts alone, or the one learner busy all the time."""
    work = {part: statistics.median(values) for part, values in parts.items()}
    processes = (os.cpu_count() or 1) / threads
    return min(1000 * processes / sum(work.values()), 1000 / (work["learner"] + work["publish"]))


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


def _runs_table(rates: Mapping[str, Sequence[float]], limit: float) -> Table:
    repeats = len(rates["reference"])
    table = Table(
        title=f"Whole runs, samples a second ({os.cpu_count()} cores, {repeats} repeats, interleaved; the limit is {limit:.1f})"
    )
    for column in ("run", "median", "lowest", "highest", "ratio to reference", "of the limit"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, values in rates.items():
        ratios = [value / reference for value, reference in zip(values, rates["reference"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(name, *_spread(values), spread, percent(statistics.median(values) / limit))
    return table


def _rate(folder: Path) -> float:
    journal = rows(folder / METRICS)
    timed = journal[WARM_STEPS:]
    return sum(row["samples"] for row in timed) / (journal[-1]["seconds"] - journal[WARM_STEPS - 1]["seconds"])


def _spread(values: Sequence[float]) -> list[str]:
    return [f"{value:.2f}" for value in (statistics.median(values), min(values), max(values))]
