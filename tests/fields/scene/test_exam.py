import numpy as np
import pytest
import torch

from fields.method.plan import noise
from fields.scene.exam import Exam, route_skill, task_row
from fields.scene.grammar import CATEGORIES, GLOBAL_EDIT, LOCAL_EDIT, ROUTE_CATEGORIES, draw_task
from fields.scene.world import render

SAMPLES = 5


@pytest.fixture(scope="module")
def exam():
    return Exam(SAMPLES, seed=3)


def targets(exam):
    return [exam.kept(np.stack([render(q.task.target) for q in sheet.questions])) for sheet in exam.sheets]


def sources(exam):
    return [np.stack([render(q.task.source or q.task.target) for q in sheet.questions]) for sheet in exam.sheets]


def test_one_sheet_a_category_with_its_own_questions(exam):
    assert [[q.task.category for q in sheet.questions] for sheet in exam.sheets] == [[c] * SAMPLES for c in CATEGORIES]
    ids = [question.id for question in exam.questions]
    assert len(set(ids)) == len(ids) == 12 * SAMPLES
    assert len({q.task for q in exam.questions}) > 11 * SAMPLES


def test_more_samples_leave_the_earlier_questions_and_their_noise(exam):
    for small, large in zip(exam.sheets, Exam(SAMPLES + 3, seed=3).sheets, strict=True):
        assert large.questions[:SAMPLES] == small.questions
        assert torch.equal(large.noise[:SAMPLES], small.noise)


def test_two_skills_are_a_sheet_more_and_leave_the_others(exam):
    *others, sheet = Exam(SAMPLES, seed=3, two_skills=True).sheets
    assert [other.questions for other in others] == [own.questions for own in exam.sheets]
    assert {question.task.category for question in sheet.questions} == {"two_skills"}
    assert all(row.source_image is not None and " and make " in row.prompt for row in sheet.rows)


def test_another_seed_is_another_exam(exam):
    other = Exam(SAMPLES, seed=4)
    assert [q.task for q in other.questions] != [q.task for q in exam.questions]
    assert not any(torch.equal(a.noise, b.noise) for a, b in zip(exam.sheets, other.sheets, strict=True))


def test_the_exam_shares_no_noise_with_training(exam):
    ids = [question.id for question in exam.sheets[0].questions]
    assert not torch.isclose(exam.sheets[0].noise, noise(3, ids, (3, 24, 24))).all(dim=(1, 2, 3)).any()


def test_a_sheet_shows_sources_of_edits_alone(exam):
    for sheet in exam.sheets:
        edits = sheet.questions[0].task.category in LOCAL_EDIT + GLOBAL_EDIT
        assert {row.source_image is not None for row in sheet.rows} == {edits}
        assert [row.prompt for row in sheet.rows] == [question.task.prompt for question in sheet.questions]


def test_right_answers_get_full_marks(exam):
    skills = exam.result(targets(exam)).skills
    assert skills.keys() == set(CATEGORIES)
    for marks in skills.values():
        assert marks["exact"] == 1.0
        assert marks["graded"] == pytest.approx(1.0, abs=1e-6)


def test_marks_are_means_by_category(exam):
    """Untouched sources for the edits; of the first category one answer is blank."""
    answers = sources(exam)
    answers[0][2] = 0.5
    skills = exam.result([exam.kept(images) for images in answers]).skills
    assert skills["single"]["exact"] == pytest.approx((SAMPLES - 1) / SAMPLES)
    assert (SAMPLES - 1) / SAMPLES - 1e-6 <= skills["single"]["graded"] < 0.95
    for category in LOCAL_EDIT + GLOBAL_EDIT:
        assert skills[category] == pytest.approx({"exact": 0.0, "graded": 0.0}, abs=1e-6)


def test_a_missing_answer_is_an_error(exam):
    with pytest.raises(ValueError, match="shorter"):
        exam.result(targets(exam)[:-1])


def test_route_skill_is_the_mean_over_its_categories():
    skills = {category: {"graded": i / 10, "exact": i / 20} for i, category in enumerate(CATEGORIES)}
    assert route_skill(skills, "text_to_image") == pytest.approx(np.mean([0, 1, 2, 3, 4, 5]) / 10)
    assert route_skill(skills, "local_edit", "exact") == pytest.approx(np.mean([6, 7, 8, 9]) / 20)
    assert route_skill(skills, "global_edit") == pytest.approx(1.05)


def test_the_results_picture_has_a_row_a_category(exam):
    picture = exam.result(targets(exam)).picture
    assert picture.shape == (3, 12 * 26, SAMPLES * 26)
    expected = render(exam.sheets[7].questions[2].task.target)
    np.testing.assert_allclose(picture[:, 7 * 26 + 1 : 8 * 26 - 1, 2 * 26 + 1 : 3 * 26 - 1], expected)


def test_a_row_shows_the_task():
    for category in ROUTE_CATEGORIES["local_edit"]:
        task = draw_task(category, np.random.default_rng(1))
        row = task_row("u", task)
        assert (row.uid, row.task, row.prompt) == ("u", category, task.prompt)
        assert row.source_image != row.target_image
