"""report.html: one self-contained page about a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from actors.journal import METRICS, SKILLS, rows
from fields.atomic import write_text
from fields.evaluation.base import Skills
from fields.evaluation.route_grids import RouteGrids
from fields.scene.checker import check
from fields.scene.exam import Exam, Question, Sheet, route_skill
from fields.scene.world import render
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig
from pipelines.reports.charts import Line, line_chart, linear_axis, logarithmic_axis, share_bar, smoothed
from pipelines.reports.grids import data_uri, grid_metrics, grid_rows
from pipelines.reports.page import template
from pipelines.run_folder.outcome import Outcome, expert_levels, summarize
from pipelines.run_folder.time_to_skill import SHARE, lacking

EXAMPLES = 4  # questions per category whose answers are shown
SMOOTHING = 0.9  # decay of the moving average that is drawn over the losses

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """A model that took the exam: its key in `Outcome.results`, and how the page calls it."""

    model: str
    heading: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one route: graded skills in percent. `expert` is None for a route that was not trained."""

    route: str
    base: int
    before: int
    after: int
    expert: str | None
    expert_skill: int | None

    @property
    def direction(self) -> str:
        """`better`, `worse` or `same`."""
        return "same" if self.after == self.before else "better" if self.after > self.before else "worse"

    @property
    def change(self) -> str:
        """The student's change in words."""
        points = _points(abs(self.after - self.before))
        return {"better": f"▲ better by {points}", "worse": f"▼ worse by {points}", "same": "= unchanged"}[self.direction]

    @property
    def distance(self) -> str:
        """How far the student is from its expert, in words."""
        if self.expert_skill is None:
            return "not trained on this route"
        gap = self.after - self.expert_skill
        return f"{_points(abs(gap))} {'above' if gap > 0 else 'below'} its expert" if gap else "level with its expert"


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one question: its image as a data URI, and its mark. `graded` in [0, 1]."""

    image: str
    passed: bool
    graded: float


@dataclass(frozen=True, slots=True)
class Example:
    """A question with the answers in order of the columns; `source` is None for text-to-image."""

    prompt: str
    source: str | None
    answers: Sequence[Answer]


def write_report(config: RunConfig, outcome: Outcome, summary: dict[str, Any]) -> None:
    """Write the page into the run's folder."""
    metrics, skills = rows(config.folder / METRICS), rows(config.folder / SKILLS)
    everyone = _columns(list(config.experts)) if outcome.results else []
    exam = outcome.exam if isinstance(outcome.exam, Exam) else None
    grids = outcome.exam if isinstance(outcome.exam, RouteGrids) and everyone else None
    columns = everyone if exam else []
    experts = {name: route.expert for name, route in config.routes.items()}
    asked = exam.routes if exam and columns else {}
    page = template("report.html.template").render(
        summary=summary,
        planned=config.run.steps,
        final_loss=metrics[-1]["loss"] if metrics else None,
        samples=exam.samples if exam else 0,
        everyone=everyone,
        grids=grid_rows(outcome, grids, [column.model for column in everyone]) if grids else {},
        grid_metrics=grid_metrics(outcome, [column.model for column in everyone]) if grids else {},
        columns=columns,
        experts=experts,
        routes=asked,
        route_skill=route_skill,
        skills={column.model: outcome.results[column.model].skills for column in columns},
        verdicts=[_verdict(outcome, route, experts.get(route)) for route in asked],
        time_to_skill=_time_to_skill(config, outcome, summary) if columns else "",
        charts=[
            Markup(chart)
            for chart in (
                _loss_chart(list(config.routes), metrics),
                exam and _skill_chart({name: experts[name] for name in experts if name in asked}, outcome, skills),
                _time_bar(metrics),
            )
            if chart
        ],
        examples=_examples(outcome, exam, columns) if exam else {},
        facts=_facts(config, metrics, summary),
        configuration=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
    )
    write_text(config.folder / "report.html", page)  # a browser never reads half a page


def report_so_far(config: RunConfig, outcome: Outcome) -> None:
    """Write the page of a run that goes on; a browser that shows it loads it again by itself."""
    write_report(config, outcome, summarize(config, outcome))


def _points(number: int) -> str:
    return f"{number} point" if number == 1 else f"{number} points"


def _columns(names: Sequence[str]) -> list[Column]:
    """The models in the order of the page's columns; `names` are the experts'."""
    experts = [Column(name, name, "expert") for name in names]
    return [Column(BASE, "base", "frozen"), *experts, Column(BEFORE, "before", "student"), Column(AFTER, "after", "student")]


def _verdict(outcome: Outcome, route: str, expert: str | None) -> Verdict:
    def graded(model: str) -> int:
        return round(100 * route_skill(outcome.results[model].skills, route))

    return Verdict(
        route=route,
        base=graded(BASE),
        before=graded(BEFORE),
        after=graded(AFTER),
        expert=expert,
        expert_skill=graded(expert) if expert else None,
    )


def _time_to_skill(config: RunConfig, outcome: Outcome, summary: Mapping[str, Any]) -> str:
    """When the student first held its experts' skills, or what it lacks, in a sentence."""
    held, goal = summary["time_to_skill"], f"{SHARE:.0%} of every expert's skill".replace("%", " %")
    if held:
        return f"It first held {goal} after {held['step']:,} steps: {held['samples']:,} samples, {held['seconds']:.0f} s."
    missing = lacking(outcome.results[AFTER].skills, expert_levels(config, outcome))
    shares = ", ".join(f"{floor(100 * share)} % of {route}'s" for route, share in missing.items())
    return f"It does not hold {goal} yet: {shares}." if missing else ""


def _loss_chart(routes: Sequence[str], metrics: Rows) -> str:
    """Every route's loss over the steps, raw and smoothed; empty if no positive loss was recorded.

    A student that starts as an expert has a loss of exactly 0 there, which a logarithmic axis cannot show.
    """
    lines, words = [], []
    for colour, route in enumerate(routes):
        losses = [(row["step"], row["route_loss"][route]) for row in metrics if route in row["route_loss"]]
        points = [(step, loss) for step, loss in losses if loss > 0 and isfinite(loss)]
        if points:
            average = smoothed(points, SMOOTHING)
            words.append(f"{route} {average[0][1]:.3g} to {average[-1][1]:.3g}")
            lines.append(Line(label=route, points=points, colour=colour, style="faint"))
            lines.append(Line(label=words[-1], points=average, colour=colour))
    if not lines:
        return ""
    values = [loss for line in lines for _, loss in line.points]
    return line_chart(
        "Loss by route, smoothed over the faint raw values",
        f"Line chart of the loss by route, logarithmic, from the first to the last step: {'; '.join(words)}.",
        lines,
        linear_axis("optimizer step", metrics[0]["step"], metrics[-1]["step"]),
        logarithmic_axis("loss (log scale)", values),
    )


def _skill_chart(experts: Mapping[str, str], outcome: Outcome, skills: Rows) -> str:
    """Every route's graded skill from the student's start on, its expert's level dashed; empty below two evaluations.

    `experts` is route -> its expert.
    """
    if len(skills) < 2 or not outcome.results:
        return ""
    taken: dict[int, Skills] = {0: outcome.results[BEFORE].skills} | {row["step"]: row["skills"] for row in skills}
    last = max(taken)
    lines, words = [], []
    for colour, route in enumerate(experts):
        points = [(step, 100 * route_skill(taken[step], route)) for step in sorted(taken)]
        level = 100 * route_skill(outcome.results[experts[route]].skills, route)
        words.append(f"{route} {points[0][1]:.0f} % to {points[-1][1]:.0f} %, expert {level:.0f} %")
        lines.append(Line(label=route, points=[(0, level), (last, level)], colour=colour, style="dashed"))
        lines.append(Line(label=words[-1], points=points, colour=colour))
    return line_chart(
        "Graded skill of the student by route; dashed: the route's expert",
        f"Line chart of the student's graded skill by route over the steps: {'; '.join(words)}.",
        lines,
        linear_axis("optimizer steps done", 0, last),
        linear_axis("graded skill", 0, 100, " %"),
    )


def _time_bar(metrics: Rows) -> str:
    """What the learner's time went to; empty where that wasn't measured, as in a run of one process."""
    if not metrics or not any(row.get("update_seconds") for row in metrics):
        return ""
    parts = {"waiting for targets": "wait_seconds", "update": "update_seconds", "checkpoints": "save_seconds"}
    whole = metrics[-1]["seconds"]
    shares = [(label, sum(row.get(key, 0.0) for row in metrics) / whole) for label, key in parts.items()]
    rest = max(0.0, 1 - sum(share for _, share in shares))
    return share_bar(f"What the learner's {whole:.0f} s went to, exams left out", [*shares, ("the rest", rest)])


def _examples(outcome: Outcome, exam: Exam, columns: Sequence[Column]) -> dict[str, list[Example]]:
    """Category -> its first questions with every model's answers; empty without evaluation."""
    if not columns:
        return {}
    return {sheet.questions[0].task.category: _sheet(outcome, n, sheet, columns) for n, sheet in enumerate(exam.sheets)}


def _sheet(outcome: Outcome, number: int, sheet: Sheet, columns: Sequence[Column]) -> list[Example]:
    """The first questions of one sheet."""
    answers = [outcome.results[column.model].answers[number] for column in columns]
    return [
        Example(
            question.task.prompt,
            data_uri(render(question.task.source)) if question.task.source else None,
            [_answer(question, images[n]) for images in answers],
        )
        for n, question in enumerate(sheet.questions[:EXAMPLES])
    ]


def _answer(question: Question, image: np.ndarray) -> Answer:
    score = check(question.task, image)
    return Answer(data_uri(image), score.passed, score.graded)


def _facts(config: RunConfig, metrics: Rows, summary: Mapping[str, Any]) -> dict[str, str]:
    """What else is worth knowing about the run; the metrics of earlier sessions count."""
    clip = config.learner.clip
    facts = {
        "weights, SHA-256": summary["weights_sha256"],
        "versions": ", ".join(f"{name} {number}" for name, number in summary["versions"].items()),
        "numerics": config.numerics.promise,
    }
    if not metrics:
        return {"recorded steps": "none"} | facts
    staleness = Counter(row["staleness"] for row in metrics)
    norms = [row["gradient_norm"] for row in metrics]
    clipped = sum(norm > clip for norm in norms)
    samples: Counter[str] = Counter()
    for row in metrics:
        samples.update(row["route_samples"])
    return {
        "recorded steps": f"{metrics[0]['step']} to {metrics[-1]['step']}, {len(metrics)} in all",
        "staleness": ", ".join(f"{lag} in {_share(n, len(metrics))}" for lag, n in sorted(staleness.items())),
        "gradient norm": f"{min(norms):.3g} to {max(norms):.3g}; above {clip:g} and clipped in {_share(clipped, len(metrics))}",
        "samples by route": ", ".join(f"{route} {number}" for route, number in samples.most_common()),
    } | facts


def _share(number: int, whole: int) -> str:
    return f"{number} of {whole} steps"
