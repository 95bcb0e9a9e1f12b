from itertools import pairwise

import numpy as np
import pytest

from fields.scene.checker import check
from fields.scene.grammar import CATEGORIES, GLOBAL_EDIT, LOCAL_EDIT, TEXT_TO_IMAGE, Request, Task, Wanted, draw_task
from fields.scene.world import BACKGROUNDS, STYLES, Scene, Thing, render

EDITS = LOCAL_EDIT + GLOBAL_EDIT
COUNT = 12
RED, BLUE = Thing("circle", "red"), Thing("square", "blue")


@pytest.fixture(scope="module")
def tasks():
    return {category: [draw_task(category, np.random.default_rng(n)) for n in range(COUNT)] for category in CATEGORIES}


def scene(*cells, background="white", style="plain"):
    """A scene with (cell, thing) pairs."""
    contents = dict(cells)
    return Scene(background, tuple(contents.get(cell) for cell in range(9)), style)


def request(*wanted, background="white", place=None):
    return Task("two", "", scene(), request=Request(wanted, background, place))


def noisy(image, sigma, seed=0):
    return image + sigma * np.random.default_rng(seed).standard_normal(image.shape)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_target_passes_with_full_marks(tasks, category):
    for task in tasks[category]:
        score = check(task, render(task.target))
        assert score.passed
        assert score.graded == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_blank_canvas_fails(tasks, category):
    for task in tasks[category]:
        score = check(task, render(scene(background=task.target.background)))
        assert not score.passed
        assert category in EDITS or score.graded < 0.5


@pytest.mark.parametrize("category", EDITS)
def test_an_untouched_source_fails_with_grade_0(tasks, category):
    for task in tasks[category]:
        score = check(task, render(task.source))
        assert not score.passed
        assert score.graded == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("category", CATEGORIES)
def test_another_tasks_target_mostly_fails(tasks, category):
    few = tasks[category][:6]
    passed = [check(task, render(other.target)).passed for task in few for other in few if other is not task]
    assert np.mean(passed) < 0.15


@pytest.mark.parametrize("category", EDITS)
def test_more_noise_is_a_lower_grade(tasks, category):
    for task in tasks[category][:4]:
        grades = [check(task, noisy(render(task.target), sigma)).graded for sigma in (0.0, 0.05, 0.1, 0.2, 0.4)]
        assert all(less > more or less == more == 0 for less, more in pairwise(grades))
        assert not check(task, noisy(render(task.target), 0.4)).passed


@pytest.mark.parametrize("category", TEXT_TO_IMAGE)
def test_more_noise_is_a_lower_grade_of_a_request(tasks, category):
    for task in tasks[category][:3]:
        grades = [check(task, noisy(render(task.target), sigma)).graded for sigma in (0.0, 0.1, 0.2, 0.4)]
        assert all(less > more or less == more == 0 for less, more in pairwise(grades))
        assert not check(task, noisy(render(task.target), 0.4)).passed


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_little_noise_still_passes(tasks, category):
    assert all(check(task, noisy(render(task.target), 0.03)).passed for task in tasks[category])


def test_values_outside_0_and_1_are_clipped(tasks):
    task = Task("two", "", scene(), request=Request((Wanted("circle"),), "white"))
    image = render(scene((4, RED)))
    assert check(task, np.where(image == 1, 9.0, image)) == check(task, image)


@pytest.mark.parametrize(
    ("image", "passed"),
    [
        (scene((0, RED), (8, BLUE)), True),
        (scene((8, RED), (0, BLUE)), True),
        (scene((0, Thing("circle", "green")), (8, BLUE)), True),
        (scene((0, RED), (8, Thing("square", "red"))), False),
        (scene((0, RED)), False),
        (scene((0, RED), (8, BLUE), (4, RED)), False),
        (scene((0, RED), (8, Thing("cross", "blue"))), False),
        (scene((0, RED), (8, BLUE), background="grey"), False),
        (scene((0, RED), (8, BLUE), style="negative"), False),
    ],
)
def test_what_a_request_allows(image, passed):
    """A circle of any colour and a blue square, anywhere, nothing else, on white."""
    assert check(request(Wanted("circle"), Wanted("square", "blue")), render(image)).passed is passed


@pytest.mark.parametrize("cell", range(9))
def test_a_place_is_checked(cell):
    score = check(request(Wanted("circle"), place=4), render(scene((cell, RED))))
    assert score.passed is (cell == 4)
    assert (score.graded > 0.99) is (cell == 4)


def test_things_that_nobody_asked_for_lower_the_grade():
    """By the likeness that their cells have left with empty ones."""
    task = request(Wanted("circle", "red"))
    crowds = [[(cell, Thing("square", "blue")) for cell in range(1, count)] for count in (1, 3, 5, 9)]
    grades = [check(task, render(scene((0, RED), *crowd))).graded for crowd in crowds]
    assert grades == sorted(grades, reverse=True)
    assert grades[0] == pytest.approx(1.0)
    assert grades[-1] < 0.3


@pytest.mark.parametrize(("share_of_sky", "passed"), [(0.4, True), (0.6, False)])
def test_a_background_in_between_counts_as_the_nearer_one(share_of_sky, passed):
    """Within a cell's tolerance of the right background, yet nearer to another, is the other."""
    white, sky = (render(scene((0, RED), background=background)).astype(float) for background in ("white", "sky"))
    image = (1 - share_of_sky) * white + share_of_sky * sky
    assert check(request(Wanted("circle", "red")), image).passed is passed


def test_two_things_in_each_others_colours_are_not_what_was_asked():
    swapped = scene((0, Thing("circle", "blue")), (8, Thing("square", "red")))
    score = check(request(Wanted("circle", "red"), Wanted("square", "blue")), render(swapped))
    assert not score.passed
    assert score.graded < 0.9


def edit(source, target):
    return Task("add", "", target, source=source)


def test_progress_and_preservation_multiply():
    """Halfway to the target is half the grade; spoiling what had to stay costs too, and both together the product."""
    source, target = scene((0, RED)), scene((0, RED), (8, BLUE))
    before, after = render(source).astype(float), render(target).astype(float)
    task = edit(source, target)
    assert check(task, (before + after) / 2).graded == pytest.approx(0.5, abs=1e-6)
    spoiled = after.copy()
    spoiled[:, :8, :8] -= 0.1
    changed = np.abs(before - after).max(axis=0) > 1e-3
    lost = np.abs(np.clip(spoiled, 0, 1) - after)[:, ~changed].mean() / 0.4
    assert 0.01 < lost < 0.2
    assert check(task, spoiled).graded == pytest.approx(1 - lost, abs=1e-6)
    half = (before + after) / 2
    half[:, :8, :8] = spoiled[:, :8, :8]
    assert check(task, half).graded == pytest.approx(0.5 * (1 - lost), abs=1e-6)


@pytest.mark.parametrize(
    "image",
    [
        scene((8, BLUE)),
        scene((0, RED), (8, Thing("square", "purple"))),
        scene((0, RED), (7, BLUE)),
        scene((0, RED), (8, BLUE), background="sky"),
        scene((0, RED), (8, BLUE), (4, RED)),
        *(scene((0, RED), (8, BLUE), style=style) for style in STYLES),
    ],
)
def test_an_edit_has_one_right_answer(image):
    task = edit(scene((0, RED)), scene((0, RED), (8, BLUE)))
    assert check(task, render(scene((0, RED), (8, BLUE)))).passed
    assert not check(task, render(image)).passed


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_told_from_every_other_style(background, style):
    plain = scene((0, RED), (8, BLUE), background=background)
    task = Task("style", "", Scene(background, plain.cells, style), source=plain)
    for other in ("plain", *STYLES):
        assert check(task, render(Scene(background, plain.cells, other))).passed is (other == style)


def test_pictures_that_nobody_can_tell_apart_are_one_answer():
    """In monochrome yellow and sky are the same grey to 0.001: an answer that errs by more than that isn't read as empty."""
    source = scene((2, Thing("cross", "yellow")), (4, RED), background="sky")
    target = scene((2, Thing("cross", "yellow")), (4, RED), background="sky", style="monochrome")
    task = Task("style", "", target, source=source)
    empty = scene((4, RED), background="sky", style="monochrome")
    assert np.abs(render(target) - render(empty)).max() < 0.01
    for seed in range(8):
        assert check(task, noisy(render(target), 0.01, seed)).passed
        assert not check(
            task, noisy(render(scene((2, RED), (4, RED), background="sky", style="monochrome")), 0.01, seed)
        ).passed
    assert not check(task, render(source)).passed
