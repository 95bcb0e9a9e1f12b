"""The tables and plots of a comparison: compare.md and compare.html, from compare.json alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fields.atomic import write_text
from fields.scene.exam import route_skill
from pipelines.comparison.intervals import Estimate, difference, estimate, verdict
from pipelines.comparison.jobs import configure
from pipelines.comparison.store import results_of
from pipelines.config.comparison import Comparison, Experiment
from pipelines.config.run import BASE
from pipelines.reports.charts import Line, line_chart, linear_axis
from pipelines.reports.page import template
from pipelines.run_folder.time_to_skill import ExamTaken, first_holding

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A variant at one guidance scale: its scores over the seeds, and the paired difference to the experiment's default.

    `held` is the seconds until a student first held its experts' skills, over the `holders`: the seeds in which it did.
    """

    label: str
    score: Estimate
    routes: Mapping[str, Estimate]
    gap: Estimate | None
    seconds: Estimate
    held: Estimate | None
    holders: int
    is_default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """An experiment as the page shows it; `missing` are the rows without a result."""

    name: str
    experiment: Experiment
    rows: Sequence[Row]
    experts: Mapping[str, Mapping[str, float]]
    verdicts: Sequence[str]
    charts: Sequence[Markup]
    missing: Sequence[str]


def write_report(comparison: Comparison, content: Mapping[str, Any], output: Path, source: Path) -> None:
    """Write the pages of what has been run so far."""
    tables = [
        _table(comparison, name, _results(comparison, experiment, content), content)
        for name, experiment in comparison.experiments.items()
    ]
    facts = {
        "comparison": comparison,
        "tables": tables,
        "command": f"python -m pipelines.compare {source}",
        "versions": content["versions"],
        "runs": sum(len(seeds) for seeds in content["runs"].values()),
    }
    write_text(output / "compare.html", template("compare.html.template").render(facts))
    write_text(output / "compare.md", template("compare.md.template").render(facts))


def _results(comparison: Comparison, experiment: Experiment, content: Mapping[str, Any]) -> dict[str, dict[int, Result]]:
    """Row label -> seed -> result, for what has been run."""
    found = {}
    for label, (variant, scale) in experiment.rows.items():
        of_variant = results_of(content, configure(comparison, experiment.variants[variant], comparison.seeds[0]))
        found[label] = {seed: result for seed, result in of_variant.items() if f"{scale:g}" in result["skills"]}
    return found


def _teachers(comparison: Comparison, experiment: Experiment) -> list[str]:
    """The base, and the experts that some variant learns the experiment's routes from, in the configuration's order."""
    configs = [configure(comparison, variant, comparison.seeds[0]) for variant in experiment.variants.values()]
    asked = {config.routes[route].expert for config in configs for route in experiment.routes}
    return [BASE, *(name for name in configs[0].experts if name in asked)]


def _table(comparison: Comparison, name: str, results: Mapping[str, Mapping[int, Result]], content: Mapping[str, Any]) -> Table:
    experiment = comparison.experiments[name]
    scores = {label: {seed: _score(experiment, label, result) for seed, result in of.items()} for label, of in results.items()}
    rows = []
    for label, of in results.items():
        if of:
            held = [found for result in of.values() if (found := _held(comparison, experiment, label, result, content))]
            rows.append(
                Row(
                    label=label,
                    score=estimate(list(scores[label].values())),
                    routes={
                        route: estimate([_skill(experiment, label, r, route) for r in of.values()])
                        for route in experiment.routes
                    },
                    gap=None if label == experiment.default else difference(scores[label], scores[experiment.default]),
                    seconds=estimate([result["seconds"] for result in of.values()]),
                    held=estimate([exam.seconds for exam in held]) if held else None,
                    holders=len(held),
                    is_default=label == experiment.default,
                )
            )
    return Table(
        name=name,
        experiment=experiment,
        rows=rows,
        experts={
            model: {route: route_skill(content["experts"][model], route) for route in experiment.routes}
            for model in _teachers(comparison, experiment)
            if model in content["experts"]
        },
        verdicts=[_verdict(better, worse, scores) for better, worse in experiment.orders],
        charts=[Markup(chart) for chart in _charts(experiment, results)],
        missing=[label for label, of in results.items() if not of],
    )


def _score(experiment: Experiment, label: str, result: Result) -> float:
    return sum(_skill(experiment, label, result, route) for route in experiment.routes) / len(experiment.routes)


def _skill(experiment: Experiment, label: str, result: Result, route: str) -> float:
    _, scale = experiment.rows[label]
    return route_skill(result["skills"][f"{scale:g}"], route)


def _verdict(better: str, worse: str, scores: Mapping[str, dict[int, float]]) -> str:
    gap = difference(scores[better], scores[worse])
    if gap is None:
        return f"{better} over {worse}: not run"
    return f"{better} over {worse}: {verdict(scores[better], scores[worse])} ({gap}, {gap.count} seeds)"


def _curve(result: Result) -> list[ExamTaken]:
    """The exams of a run in order, that of the finished student last."""
    final = {"step": result["settings"]["steps"], "seconds": result["seconds"], "samples": result["samples"]}
    return [ExamTaken(**exam) for exam in [*result["curve"], final | {"skills": result["skills"]["1"]}]]


def _held(
    comparison: Comparison, experiment: Experiment, label: str, result: Result, content: Mapping[str, Any]
) -> ExamTaken | None:
    """When a run's student first held the skills of the experts that taught it, in the experiment's routes."""
    variant, scale = experiment.rows[label]
    if scale != 1 or "1" not in result["skills"]:
        return None  # the exams on the way are without guidance
    routes = configure(comparison, experiment.variants[variant], comparison.seeds[0]).routes
    known = content["experts"]  # empty until the experts took their exams
    levels = {route: route_skill(known[routes[route].expert], route) for route in experiment.routes if known}
    return first_holding(_curve(result), levels)


def _charts(experiment: Experiment, results: Mapping[str, Mapping[int, Result]]) -> list[str]:
    """The mean score over seeds against steps, seconds and samples."""
    charts = []
    for axis in ("step", "seconds", "samples"):
        lines = []
        for colour, (label, of) in enumerate(results.items()):
            curves = [_curve(result) for result in of.values() if "1" in result["skills"]]
            if curves and experiment.rows[label][1] == 1:
                points = [
                    (
                        sum(getattr(curve[n], axis) for curve in curves) / len(curves),
                        100 * sum(_mean(curve[n].skills, experiment.routes) for curve in curves) / len(curves),
                    )
                    for n in range(min(map(len, curves)))
                ]
                lines.append(Line(label=label, points=points, colour=colour))
        if lines:
            last = max(x for line in lines for x, _ in line.points)
            scores = [y for line in lines for _, y in line.points]
            charts.append(
                line_chart(
                    f"Score against {axis}, mean over seeds",
                    f"Line chart of the score against {axis}: "
                    + ", ".join(f"{line.label} {line.points[-1][1]:.0f} %" for line in lines),
                    lines,
                    linear_axis(axis, 0, last),
                    linear_axis("score", 10 * floor(min(scores) / 10), 10 * ceil(max(scores) / 10), " %"),
                )
            )
    return charts


def _mean(skills: Mapping[str, Mapping[str, float]], routes: Sequence[str]) -> float:
    return sum(route_skill(skills, route) for route in routes) / len(routes)
