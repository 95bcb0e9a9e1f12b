"""When a student first holds what its experts can do."""

import pytest

from fields.scene.grammar import CATEGORIES, ROUTE_CATEGORIES
from pipelines.run_folder.time_to_skill import ExamTaken, exams_taken, first_holding, lacking

LEVELS = {"text_to_image": 0.9, "local_edit": 1.0}


def skills(text_to_image: float, local_edit: float, global_edit: float = 0.0) -> dict:
    of = {"text_to_image": text_to_image, "local_edit": local_edit, "global_edit": global_edit}
    return {category: {"graded": float(of[route]), "exact": 0.0} for route, own in ROUTE_CATEGORIES.items() for category in own}


def exams(*taken: dict) -> list[ExamTaken]:
    return [ExamTaken(step=step, samples=8 * step, seconds=0.5 * step, skills=each) for step, each in enumerate(taken, 1)]


def test_the_first_exam_counts_in_which_every_route_is_held():
    on_the_way = exams(skills(0.9, 0.2), skills(0.8, 0.9), skills(0.82, 0.91), skills(0.1, 1.0))
    held = first_holding(on_the_way, LEVELS)
    assert held is not None
    assert held.price == {"step": 3, "samples": 24, "seconds": 1.5}, "0.82 is more than 90 % of 0.9; later losses don't matter"
    assert first_holding(on_the_way[:2], LEVELS) is None
    assert first_holding(on_the_way, {}) is None, "nobody to compare with"
    assert first_holding(on_the_way, LEVELS | {"global_edit": 0.0}) == held, "an expert without a skill asks for none"


def test_what_is_lacking_is_said_as_a_share_of_the_expert_s():
    assert lacking(skills(0.45, 0.95), LEVELS) == {"text_to_image": pytest.approx(0.5)}
    assert lacking(skills(1, 1), LEVELS) == {}


def test_the_price_of_an_exam_is_what_was_spent_on_the_steps_before_it():
    metrics = [{"step": step, "samples": 4 + step, "seconds": 0.25 * (step + 1)} for step in range(3)]
    taken = exams_taken(metrics, [{"step": step, "skills": {category: {} for category in CATEGORIES}} for step in (0, 2, 3)])
    assert [exam.price for exam in taken] == [
        {"step": 2, "samples": 9, "seconds": 0.5},
        {"step": 3, "samples": 15, "seconds": 0.75},
    ]
