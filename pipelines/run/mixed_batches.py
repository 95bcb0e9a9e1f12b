"""What batches of several routes save where a step has many routes, and so few samples of each."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from pipelines.config.load import load_config
from pipelines.config.run import RunConfig
from pipelines.parts.check_files import checked_parts
from pipelines.reports.measurement import Measurement, spread
from pipelines.run.in_turn import Stepped, cpu_seconds


def mixed_batches(path: Path, times: Sequence[int], steps: int) -> Measurement:
    """CPU seconds of a sample with and without `rollout.mix_routes`, a step of one after a step of the other.

    Args:
        path: of the run's configuration.
        times: how many routes are made of each of its routes, alike but for their names.
        steps: timed of each, after one that warms up.
    """
    rows, raw = [], {}
    for number in times:
        configs = {
            name: _with_routes(path, number, f"rollout.mix_routes={mixes}")
            for name, mixes in (("apart", "false"), ("mixed", "true"))
        }
        parts = {name: checked_parts(config) for name, config in configs.items()}
        full = {
            name: statistics.mean(
                sum(len(group.ids) for group in batch) for step in range(steps) for batch in own.plan.batches(step)
            )
            for name, own in parts.items()
        }
        seconds = cpu_seconds({name: Stepped(own) for name, own in parts.items()}, steps)
        ratios = [apart / mixed for apart, mixed in zip(seconds["apart"], seconds["mixed"], strict=True)]
        batch_size, routes = configs["apart"].learner.batch_size, len(configs["apart"].routes)
        each = [f"{1000 * statistics.median(seconds[name]) / batch_size:.1f}" for name in full]
        rows.append([str(routes), *(f"{samples:.1f}" for samples in full.values()), *each, *spread(ratios)])
        raw[str(routes)] = {"samples_of_a_batch": full, "cpu_seconds_of_a_step": seconds, "ratios": ratios}
    return Measurement(
        name="mixed",
        title=f"CPU milliseconds of a sample by the number of routes ({steps} steps of each, in turn)",
        columns=["routes", "samples of a batch", "mixed", "ms", "mixed", "ratio, median", "lowest", "highest"],
        rows=rows,
        raw=raw,
    )


def _with_routes(path: Path, number: int, *overrides: str) -> RunConfig:
    """The configuration with so many routes of each of its routes, from the base as the start."""
    common = ["eval.every=0", "student.start={type: base}"]
    routes = load_config(path, common).routes
    several = [
        f"{name}_{n}: {{expert: {route.expert}, data: {route.data}, weight: {route.weight}}}"
        for name, route in routes.items()
        for n in range(number)
    ]
    return load_config(path, [*common, f"routes={{{', '.join(several)}}}", *overrides])
