"""The shipped weights: small enough, and each expert still does what its card says."""

import json

import pytest

from fields.scene.exam import Exam
from fields.scene.experts import load_expert, take_exam
from fields.scene.grammar import ROUTE_CATEGORIES
from fields.scene.recipes import CARD, NAMES, WEIGHTS

ROUTES = {"base": "text_to_image", "local_edit": "local_edit", "global_edit": "global_edit"}


def test_the_weights_fit_into_ten_megabytes():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 10e6


@pytest.mark.parametrize("name", NAMES)
def test_an_expert_has_the_skills_of_its_card(name):
    exam = Exam(samples=12, seed=3)  # other questions than the card's
    exam._sheets = [sheet for sheet in exam.sheets if sheet.questions[0].task.category in ROUTE_CATEGORIES[ROUTES[name]]]
    skills = take_exam(exam, load_expert(name))
    card = json.loads((WEIGHTS / name / CARD).read_text())["skills"]
    expected = sum(card[category]["graded"] for category in skills) / len(skills)
    assert sum(skill["graded"] for skill in skills.values()) / len(skills) == pytest.approx(expected, abs=0.06)
    assert expected > 0.85
