"""The page of a run, written from an outcome made by hand: every answer is a rendering of the right one."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.journal import METRICS, SKILLS
from fields.carriers import Weights
from fields.evaluation.base import KeptAnswers
from fields.scene.exam import Exam
from fields.scene.grammar import CATEGORIES, ROUTE_CATEGORIES
from fields.scene.world import render
from pipelines.config.run import RunConfig
from pipelines.reports.charts import COLOURS, linear_axis, logarithmic_axis, smoothed
from pipelines.reports.page import template
from pipelines.reports.run_report import write_report
from pipelines.run_folder.outcome import AFTER, BASE, BEFORE, Outcome, write_summary

MODELS = (BASE, *ROUTE_CATEGORIES, BEFORE, AFTER)  # one expert a route, of the route's name
EDITS = len(ROUTE_CATEGORIES["local_edit"] + ROUTE_CATEGORIES["global_edit"])
HOSTILE = "<script>alert('&')<"

Write = Callable[..., str]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    content = {
        "run": {"name": "tiny", "dir": str(tmp_path)},
        "experts": {name: {} for name in ROUTE_CATEGORIES},
        "routes": {name: {"expert": name, "data": f"{name}.parquet"} for name in ROUTE_CATEGORIES},
    }
    config = RunConfig.model_validate(content)
    return config.model_copy(update={"run": config.run.model_copy(update={"name": HOSTILE})})


@pytest.fixture
def exam() -> Exam:
    """One question a category; the first prompt is hostile."""
    exam = Exam(1, seed=1)
    question = exam.sheets[0].questions[0]
    hostile = replace(question, task=replace(question.task, prompt=HOSTILE))
    exam.sheets[0] = replace(exam.sheets[0], questions=(hostile,))
    return exam


@pytest.fixture
def write(config: RunConfig, exam: Exam) -> Write:
    """Write the report of a run with this many recorded steps and evaluations; `evaluated` says whether it has results."""

    def write(steps: int, evaluations: int = 0, evaluated: bool = True, timed: bool = False) -> str:
        right = exam.result([KeptAnswers([render(q.task.target) for q in sheet.questions]) for sheet in exam.sheets])
        wrong = exam.result([exam.kept(np.full_like(images, 0.5)) for images in right.answers])
        results = {name: wrong if name == BEFORE else right for name in MODELS} if evaluated else {}
        weights = Weights.of(steps, {"adapter": torch.zeros(2, 2)})
        outcome = Outcome(steps=steps, weights=weights, exam=exam, results=results)
        config.folder.mkdir(exist_ok=True)
        times = {"wait_seconds": 0.1, "update_seconds": 0.3, "save_seconds": 0.05} if timed else {}
        metrics = [_metrics_row(step) | times for step in range(steps)]
        skills = [{"step": 2 + n, "skills": right.skills} for n in range(evaluations)]
        for name, rows in ((METRICS, metrics), (SKILLS, skills)):
            (config.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        write_report(config, outcome, write_summary(config, outcome))
        return (config.folder / "report.html").read_text()

    return write


def _metrics_row(step: int) -> dict:
    """The journal's row; the loss of local_edit is exactly 0 at first, as of a student that starts there."""
    loss = {"text_to_image": 2.0 / (step + 1), "local_edit": 0.01 * step, "global_edit": 0.5}
    return {
        "step": step,
        "loss": 0.125,
        "route_loss": loss,
        "route_samples": {"text_to_image": 1, "local_edit": 2, "global_edit": 3},
        "samples": 6,
        "seconds": 0.5 * (step + 1),
        "gradient_norm": 0.5 + step,
        "staleness": min(step, 1),
    }


def _rows_of(page: str, category: str) -> list[str]:
    """The percentages of a category's row in the table of skills."""
    row = re.search(rf'<th scope="row">{category}</th>(.*?)</tr>', page, re.DOTALL)
    assert row is not None
    return re.findall(r"\d+ %", row[1])


def test_page_shows_skills_images_and_marks(write: Write):
    page = write(steps=4, evaluations=2)
    for category in CATEGORIES:
        values = _rows_of(page, category)
        assert len(values) == 2 * len(MODELS)
        exact, graded = values[0::2], values[1::2]
        assert [value for model, value in zip(MODELS, exact, strict=True) if model != BEFORE] == ["100 %"] * 5
        assert [value for model, value in zip(MODELS, graded, strict=True) if model != BEFORE] == ["100 %"] * 5
        assert exact[MODELS.index(BEFORE)] == "0 %"
    assert page.count("<img ") == len(CATEGORIES) * len(MODELS) + EDITS
    assert page.count("✓ pass") == len(CATEGORIES) * (len(MODELS) - 1)
    assert page.count("✗ fail") == len(CATEGORIES)
    assert page.count("▲ better by") == len(ROUTE_CATEGORIES)
    assert page.count("level with its expert") == len(ROUTE_CATEGORIES)
    assert page.count("routed expert") == len(CATEGORIES)
    assert page.count("<figure") == 2


def test_the_learner_s_time_is_divided_by_what_it_went_to(write: Write):
    page = write(steps=4, evaluated=False, timed=True)
    bar = re.search(r"What the learner's 2 s went to, exams left out.*?</figure>", unescape(page), re.DOTALL)
    assert bar is not None
    assert 'aria-label="waiting for targets 20 %; update 60 %; checkpoints 10 %; the rest 10 %"' in bar[0]
    drawn = re.findall(r'<path class="bar line-\d" d="M([0-9.]+) 14h([0-9.]+)">', bar[0])
    widths = [float(width) for _, width in drawn]
    assert [round(width / sum(widths), 3) for width in widths] == [0.2, 0.6, 0.1, 0.1]
    ends = [float(begin) + width for (begin, _), width in zip(drawn, widths, strict=True)]
    assert [round(end) for end in ends[:-1]] == [round(float(begin)) for begin, _ in drawn[1:]], "one after the other"


def test_the_price_of_the_experts_skills_is_said(config: RunConfig, write: Write):
    """The exams after two and three steps are right; the student's start, and nothing before, is wrong."""
    page = write(steps=4, evaluations=2)
    assert "It first held 90 % of every expert&#39;s skill after 2 steps: 12 samples, 1 s." in page
    summary = json.loads((config.folder / "summary.json").read_text())
    assert summary["time_to_skill"] == {"step": 2, "samples": 12, "seconds": 1.0}
    assert "first held" not in write(steps=4, evaluated=False)
    assert json.loads((config.folder / "summary.json").read_text())["time_to_skill"] is None


def test_page_opens_without_network(write: Write):
    page = write(steps=4, evaluations=2)
    assert "http://" not in page
    assert "https://" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'\bsrc="([^"]*)"', page))


def test_names_and_prompts_are_escaped(write: Write):
    page = write(steps=4, evaluations=2)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;") >= 2 + 1 + len(MODELS)  # title and heading, row, alt texts


def test_every_image_and_chart_has_a_text(write: Write):
    page = write(steps=4, evaluations=2)
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img [^>]*>", page))
    assert len(re.findall(r'<svg class="plot"[^>]* role="img" aria-label="[^"]+"', page)) == 2
    assert page.count("<table") == page.count("<caption>") == len(CATEGORIES) + 2


def test_a_page_of_a_run_that_goes_on_says_so_and_refreshes(config: RunConfig, write: Write):
    assert config.run.steps == 600
    page = write(steps=4, evaluations=2)
    assert '<meta http-equiv="refresh" content="30">' in page
    assert "4 of 600 steps so far; 24 samples" in page
    finished = write(steps=600)
    assert "refresh" not in finished
    assert "600 steps; 3,600 samples" in finished


def test_without_evaluation_there_is_a_sentence_instead(write: Write):
    page = write(steps=4, evaluated=False)
    assert page.count("eval.every = 0") == 1
    assert "<img " not in page
    assert page.count("<figure") == 1
    assert page.count("<table") == 1


def test_facts_come_from_the_journal(write: Write):
    page = write(steps=4)
    assert "final loss 0.125" in page
    assert "0 in 1 of 4 steps, 1 in 3 of 4 steps" in page
    assert "0.5 to 3.5; above 1 and clipped in 3 of 4 steps" in page
    assert "global_edit 12, local_edit 8, text_to_image 4" in page


@pytest.mark.parametrize(("steps", "figures"), [(0, 0), (1, 1), (2, 1)])
def test_short_records_are_drawn_as_far_as_they_go(write: Write, steps: int, figures: int):
    assert write(steps=steps, evaluations=1).count("<figure") == figures


def test_smoothing_starts_at_the_first_value():
    assert [y for _, y in smoothed([(0, 4.0), (1, 4.0), (5, 4.0)], 0.9)] == pytest.approx([4.0, 4.0, 4.0])
    assert smoothed([(0, 1.0), (1, 0.0)], 0.5)[1][1] == pytest.approx(1 / 3)


def test_logarithmic_axis_surrounds_its_values():
    axis = logarithmic_axis("loss", [0.03, 0.7])
    assert (axis.low, axis.high) == (0.02, 1.0)
    assert list(axis.ticks) == [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert axis.share(0.02) == 0
    assert axis.share(1.0) == 1
    assert len(logarithmic_axis("loss", [1e-30, 1.0]).ticks) <= 8
    single = logarithmic_axis("loss", [0.05])
    assert (single.low, single.high) == (0.05, 0.1)


def test_every_colour_of_a_line_is_in_the_style_sheet():
    style = template("page.css.template").render()
    for colour in range(COLOURS):
        assert style.count(f"--line-{colour}: #") == 2, "light and dark"
        assert f"circle.line-{colour} {{ fill" in style


def test_linear_axis_has_whole_ticks():
    assert list(linear_axis("step", 0, 599).ticks) == [0, 100, 200, 300, 400, 500]
    assert list(linear_axis("step", 7, 7).ticks) == [7, 8]
