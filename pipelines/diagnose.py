"""Where the experts disagree: `python -m pipelines.diagnose CONFIG.yaml [dotted.key=value ...] [--checkpoint DIR]`.

Rolls the student out (at its start, or from a checkpoint) and compares every expert with it and with one another, over t
and category. Without a cluster. Writes `diagnose.html` and `diagnose.json` into the run's folder: they tell where to query
before GPU hours are spent.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from fields import checkpoint
from fields.carriers import Condition, Weights
from fields.dataset import Bucket
from fields.diagnostic import STUDENT, Disagreement, disagreements
from fields.families.base import Family
from fields.plan import Stream, noise
from fields.schedule import Size
from pipelines import build
from pipelines.config import RunConfig
from pipelines.load import ConfigError, load_config
from pipelines.page import template
from pipelines.sources.scene import prepare_scene
from pipelines.validate import check_files

Pairs = dict[tuple[str, str], list[Disagreement]]


def main(arguments: Sequence[str]) -> int:
    """Parse, measure, write. Returns 2 for what is wrong with the input."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.diagnose", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value")
    parser.add_argument("--checkpoint", type=Path, help="of the student; default: its start")
    parser.add_argument("--samples", type=int, default=16, help="rows of each category")
    options = parser.parse_intermixed_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        prepare_scene()
        check_files(config)
        weights = _student(config, options.checkpoint)
    except ConfigError as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        return 2
    torch.set_num_threads(config.run.threads)
    measured = measure(config, weights, options.samples)
    config.folder.mkdir(parents=True, exist_ok=True)
    _write(config, measured, options.checkpoint)
    for line in advice(config, measured):
        print(line)
    print(f"report: {config.folder / 'diagnose.html'}")
    return 0


def _student(config: RunConfig, path: Path | None) -> Weights | None:
    """The student's moving average in a checkpoint, or its start; None is the base.

    Raises:
        ConfigError: if the checkpoint is damaged.
    """
    if path is None:
        tensors = build.start_tensors(config)
        return None if tensors is None else Weights.of(0, tensors)
    try:
        saved = checkpoint.read(path)
    except ValueError as error:
        raise ConfigError(f"--checkpoint: {error}") from error
    return Weights.of(saved.step, saved.ema)


def measure(config: RunConfig, weights: Weights | None, samples: int) -> dict[str, Pairs]:
    """Task -> pair of fields -> disagreement at each query point; the tasks are those of the rows, route by route."""
    policy = build.policy(config)
    policy.load(weights)
    experts = {name: build.field(config, name).velocity for name in config.experts}
    measured = {}
    for number, (task, size, condition) in enumerate(_conditions(config, samples, policy.family)):
        x_T = noise(
            config.run.seed,
            range(number * samples, number * samples + len(condition)),
            policy.family.latent_shape(size),
            Stream.QUESTION_NOISE,
        )
        measured[task] = disagreements(policy.velocity, experts, x_T, policy.grid(size), condition)
    return measured


def _conditions(config: RunConfig, samples: int, family: Family) -> list[tuple[str, Size, Condition]]:
    """The first rows of every task that have the size of its very first one, encoded."""
    conditions = []
    for route in config.routes.values():
        bucket = Bucket(route.data)
        by_task: dict[str, tuple[Size, list[Condition]]] = {}
        for n in range(min(len(bucket), 50 * samples)):
            row = bucket[n]
            size, rows = by_task.setdefault(row.task, (family.size(row), []))
            if len(rows) < samples and family.size(row) == size:
                rows.append(family.encode([row]))
        conditions += [(task, size, Condition.concatenate(rows)) for task, (size, rows) in by_task.items()]
    return conditions


def advice(config: RunConfig, measured: Mapping[str, Pairs]) -> list[str]:
    """A line a route: where its expert differs most from the student, and the share of the squared difference at low noise."""
    lines = []
    for name, route in config.routes.items():
        bucket = Bucket(route.data)
        tasks = {bucket[n].task for n in range(min(len(bucket), 200))}
        series = [measured[task][STUDENT, route.expert] for task in sorted(tasks)]
        squared = [sum(s[k].difference ** 2 for s in series) / len(series) for k in range(len(series[0]))]
        if (total := sum(squared)) == 0:
            lines.append(f"{name}: the student equals {route.expert}")
            continue
        times = [point.t for point in series[0]]
        peak = times[max(range(len(squared)), key=squared.__getitem__)]
        low = 100 * sum(value for value, t in zip(squared, times, strict=True) if t <= 0.5) / total
        lines.append(
            f"{name}: {route.expert} differs most at t = {peak:.2f}; {low:.0f} % of the squared difference is at t <= 0.5"
        )
    return lines


def _write(config: RunConfig, measured: Mapping[str, Pairs], source: Path | None) -> None:
    pairs = list(next(iter(measured.values())))
    content = {
        "student": str(source) if source else "start",
        "tasks": {
            task: {" | ".join(pair): [asdict(point) for point in of[pair]] for pair in pairs} for task, of in measured.items()
        },
    }
    (config.folder / "diagnose.json").write_text(json.dumps(content, indent=1) + "\n")
    page = template("diagnose.html.template").render(
        run=config.run.name,
        student=content["student"],
        pairs=pairs,
        measured=measured,
        times=[point.t for point in next(iter(measured.values()))[pairs[0]]],
        largest=max(point.difference for of in measured.values() for series in of.values() for point in series) or 1.0,
        advice=advice(config, measured),
    )
    (config.folder / "diagnose.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
