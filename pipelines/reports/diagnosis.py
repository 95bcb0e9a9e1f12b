"""Where in t, and on which tasks, the experts differ from the student and from one another; what that advises, and its page."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from fields import checkpoint
from fields.carriers import Weights
from fields.data.bucket import Bucket
from fields.data.rows import Row
from fields.evaluation.disagreement import STUDENT
from fields.families.base import Family
from pipelines.config.errors import ConfigError
from pipelines.config.run import RunConfig
from pipelines.parts.run_parts import RunParts
from pipelines.reports.ambiguity import Ambiguity
from pipelines.reports.compared_fields import ComparedFields, Pairs
from pipelines.reports.page import template

_SAME = 1e-4  # a student is merged, an expert isn't: the last bits of their velocities differ
Task = tuple[str, str]  # route, task of its rows


def student_weights(parts: RunParts, path: Path | None) -> Weights | None:
    """The student's moving average in a checkpoint, or its start; None is the base.

    Raises:
        ConfigError: if the checkpoint is damaged.
    """
    if path is None:
        tensors = parts.start_tensors()
        return None if tensors is None else Weights.of(0, tensors)
    try:
        saved = checkpoint.read(path)
    except ValueError as error:
        raise ConfigError(f"--checkpoint: {error}") from error
    return Weights.of(saved.step, saved.ema)


def measure(fields: ComparedFields, samples: int) -> dict[Task, Pairs]:
    """(Route, task of its rows) -> pair of fields -> disagreement at each query point."""
    rows = _rows(fields.parts.config, samples, fields.family)
    return {task: fields.compare(own, number * samples) for number, (task, own) in enumerate(rows.items())}


def _rows(config: RunConfig, samples: int, family: Family) -> dict[Task, list[Row]]:
    """The first rows of every task that have the size of its very first one."""
    found: dict[Task, list[Row]] = {}
    for name, route in config.routes.items():
        bucket = Bucket(route.data)
        for n in range(min(len(bucket), 50 * samples)):
            rows = found.setdefault((name, bucket[n].task), [])
            if len(rows) < samples and (not rows or family.size(bucket[n]) == family.size(rows[0])):
                rows.append(bucket[n])
    return found


def advice(config: RunConfig, measured: Mapping[Task, Pairs], unclear: Mapping[str, Ambiguity]) -> list[str]:
    """For each route, where its expert differs most from the student, with the share of the squared difference at low noise,
    and of each route with scores, how many rows are ambiguous.
    """
    lines = []
    for name, route in config.routes.items():
        series = [of[STUDENT, route.expert] for (of_route, _), of in measured.items() if of_route == name]
        if max(point.difference for s in series for point in s) < _SAME:
            lines.append(f"{name}: the student equals {route.expert}")
            continue
        squared = [sum(s[k].difference ** 2 for s in series) / len(series) for k in range(len(series[0]))]
        times = [point.t for point in series[0]]
        peak = times[max(range(len(squared)), key=squared.__getitem__)]
        low = 100 * sum(value for value, t in zip(squared, times, strict=True) if t <= 0.5) / sum(squared)
        lines.append(
            f"{name}: {route.expert} differs most at t = {peak:.2f}; {low:.0f} % of the squared difference is at t <= 0.5"
        )
    return lines + [ambiguity.sentence(route) for route, ambiguity in unclear.items()]


def write_diagnosis(
    config: RunConfig, measured: Mapping[Task, Pairs], unclear: Mapping[str, Ambiguity], source: Path | None
) -> None:
    """Write diagnose.json and diagnose.html into the run's folder.

    Args:
        config: of the run.
        measured: of every task.
        unclear: route -> its ambiguous rows.
        source: the student's checkpoint; None is its start.
    """
    pairs = list(dict.fromkeys(pair for of in measured.values() for pair in of))
    content = {
        "student": str(source) if source else "start",
        "tasks": [
            {
                "route": route,
                "task": task,
                "pairs": {" | ".join(pair): [asdict(p) for p in series] for pair, series in of.items()},
            }
            for (route, task), of in measured.items()
        ],
        "ambiguous": {route: asdict(ambiguity) for route, ambiguity in unclear.items()},
    }
    (config.folder / "diagnose.json").write_text(json.dumps(content, indent=1) + "\n")
    page = template("diagnose.html.template").render(
        run=config.run.name,
        student=content["student"],
        pairs=pairs,
        measured=measured,
        largest=max(point.difference for of in measured.values() for series in of.values() for point in series) or 1.0,
        unclear=unclear,
        advice=advice(config, measured, unclear),
    )
    (config.folder / "diagnose.html").write_text(page, encoding="utf-8")
