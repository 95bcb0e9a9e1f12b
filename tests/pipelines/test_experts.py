"""The shipped weights: small enough, and each expert still does what its card says."""

import json

import pytest

from fields.scene.exam import Exam
from fields.scene.experts import load_expert, take_exam
from fields.scene.family import SceneFamily
from fields.scene.grammar import ROUTE_CATEGORIES
from fields.scene.recipes import CARD, NAMES, WEIGHTS

ROUTES = {"base": "text_to_image", "large": "text_to_image", "small": "text_to_image"} | {
    name: name for name in ("local_edit", "global_edit")
}
LEAST = {"small": 0.6}  # a quarter of the base's weights; the others have
USUAL = 0.85


@pytest.mark.parametrize("names", [("base", "local_edit", "global_edit"), ("large", "small")])
def test_the_weights_fit_into_ten_megabytes(names):
    assert sum(path.stat().st_size for name in names for path in (WEIGHTS / name).rglob("*") if path.is_file()) < 10e6
    assert {path.name for path in WEIGHTS.iterdir()} == set(NAMES)


def test_the_large_network_has_four_times_the_bases_weights_and_the_small_one_a_quarter():
    weights = {name: sum(p.numel() for p in SceneFamily().load_transformer(WEIGHTS / name).parameters()) for name in ROUTES
               if name in ("base", "large", "small")}  # fmt: skip
    assert weights["large"] / weights["base"] == pytest.approx(4, rel=0.05)
    assert weights["small"] / weights["base"] == pytest.approx(1 / 4, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_an_expert_has_the_skills_of_its_card(name):
    exam = Exam(samples=12, seed=3)  # other questions than the card's
    exam._sheets = [sheet for sheet in exam.sheets if sheet.questions[0].task.category in ROUTE_CATEGORIES[ROUTES[name]]]
    skills = take_exam(exam, load_expert(name))
    card = json.loads((WEIGHTS / name / CARD).read_text())["skills"]
    expected = sum(card[category]["graded"] for category in skills) / len(skills)
    assert sum(skill["graded"] for skill in skills.values()) / len(skills) == pytest.approx(expected, abs=0.06)
    assert expected > LEAST.get(name, USUAL)
