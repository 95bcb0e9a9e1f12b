import numpy as np
import pytest

from fields.scene.grammar import (
    CATEGORIES,
    GLOBAL_EDIT,
    LOCAL_EDIT,
    PLACES,
    ROUTE_CATEGORIES,
    TEXT_LENGTH,
    TEXT_TO_IMAGE,
    VOCABULARY,
    Request,
    Wanted,
    draw_task,
    tokenize,
)
from fields.scene.world import BACKGROUNDS, COLOURS, PLAIN, STYLES, Thing


@pytest.fixture(scope="module")
def tasks():
    """500 tasks of every category."""
    return {category: [draw_task(category, np.random.default_rng(n)) for n in range(500)] for category in CATEGORIES}


def changed_cells(task):
    return [cell for cell in range(9) if task.source.cells[cell] != task.target.cells[cell]]


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_prompt_is_tokenised_and_fits(tasks, category):
    for task in tasks[category]:
        ids = tokenize(task.prompt)
        assert ids.dtype == np.int64
        assert ids.shape == (TEXT_LENGTH,)
        words = [VOCABULARY[i - 1] for i in ids if i]
        assert " ".join(words) == task.prompt
        assert list(ids[len(words) :]) == [0] * (TEXT_LENGTH - len(words))


def test_the_longest_prompt_fills_the_text():
    assert (tokenize("an orange triangle and an orange circle on white") > 0).sum() == TEXT_LENGTH


def test_the_empty_prompt_is_all_padding():
    assert tokenize("").tolist() == [0] * TEXT_LENGTH


def test_an_unknown_word_is_named():
    with pytest.raises(ValueError, match=r"prompt 'a red hexagon on white': .* doesn't know 'hexagon'; it knows: a add an"):
        tokenize("a red hexagon on white")


def test_a_prompt_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="has 10 words; the scene world reads at most 9"):
        tokenize("a red circle and a red circle and a red")


def test_an_unknown_category_is_refused():
    with pytest.raises(ValueError, match="unknown scene category 'poem'; allowed: single, two"):
        draw_task("poem", np.random.default_rng(0))


def test_routes_are_the_twelve_categories():
    assert [c for categories in ROUTE_CATEGORIES.values() for c in categories] == list(CATEGORIES)
    assert len(set(CATEGORIES)) == 12


def test_text_to_image_has_a_request_and_edits_have_a_source(tasks):
    for category, drawn in tasks.items():
        for task in drawn:
            assert task.category == category
            assert (task.request is None, task.source is None) == (
                (False, True) if category in TEXT_TO_IMAGE else (True, False)
            )


@pytest.mark.parametrize("category", TEXT_TO_IMAGE)
def test_a_target_fulfils_its_request(tasks, category):
    for task in tasks[category]:
        things = [thing for thing in task.target.cells if thing is not None]
        assert task.target.background == task.request.background
        assert len(things) == len(task.request.things)
        for wanted in task.request.things:
            match = next(thing for thing in things if wanted.admits(thing))
            things.remove(match)


def test_targets_say_what_their_prompts_say(tasks):
    for task in tasks["attribution"]:
        _, colour, shape, _, _, other_colour, other_shape, _, background = task.prompt.split()
        assert {Thing(shape, colour), Thing(other_shape, other_colour)} == {t for t in task.target.cells if t}
        assert task.target.background == background
    for task in tasks["position"]:
        shape, place = task.prompt.split()[1], task.prompt.split(" at ")[1].split(" on ")[0]
        assert task.target.cells[PLACES.index(place)].shape == shape
    for task in tasks["count"]:
        number = {"two": 2, "three": 3, "four": 4}[task.prompt.split()[0]]
        assert len([t for t in task.target.cells if t]) == number
    for task in tasks["add"]:
        colour, shape = task.prompt.split()[2:4]
        assert changed_cells(task) == [cell := PLACES.index(task.prompt.split(" at ")[1])]
        assert task.source.cells[cell] is None
        assert task.target.cells[cell] == Thing(shape, colour)
    for task in tasks["replace"]:
        words, (cell,) = task.prompt.split(), changed_cells(task)
        assert (task.source.cells[cell], task.target.cells[cell]) == (Thing(words[3], words[2]), Thing(words[-1], words[-2]))
    for task in tasks["remove"]:
        words, (cell,) = task.prompt.split(), changed_cells(task)
        assert (task.source.cells[cell], task.target.cells[cell]) == (Thing(words[3], words[2]), None)
    for task in tasks["recolour"]:
        words, (cell,) = task.prompt.split(), changed_cells(task)
        assert (task.source.cells[cell], task.target.cells[cell]) == (Thing(words[3], words[2]), Thing(words[3], words[4]))
    for task in tasks["background"]:
        assert task.target.background == task.prompt.split()[-1] != task.source.background
        assert (changed_cells(task), task.target.style) == ([], PLAIN)
    for task in tasks["style"]:
        assert task.target.style == task.prompt.split()[-1] != task.source.style
        assert (changed_cells(task), task.target.background) == ([], task.source.background)


@pytest.mark.parametrize("category", LOCAL_EDIT)
def test_a_local_edit_is_unambiguous_and_leaves_the_rest(tasks, category):
    """The named thing occurs once, so the instruction has one meaning; background and style stay."""
    for task in tasks[category]:
        things = [thing for thing in task.source.cells if thing]
        assert len(set(things)) == len(things)
        after = [thing for thing in task.target.cells if thing]
        assert len(set(after)) == len(after)
        assert (task.target.background, task.target.style) == (task.source.background, PLAIN)


def test_every_option_is_drawn(tasks):
    assert {task.target.background for task in tasks["single"]} == set(BACKGROUNDS)
    assert {task.target.style for task in tasks["style"]} == set(STYLES)
    assert {task.request.place for task in tasks["position"]} == set(range(9))
    assert {wanted.colour for task in tasks["colour"] for wanted in task.request.things} == set(COLOURS)
    assert {sum(t is not None for t in task.source.cells) for task in tasks[GLOBAL_EDIT[0]]} == {2, 3, 4}


def test_a_task_is_decided_by_its_generator():
    for category in CATEGORIES:
        one, same, other = (draw_task(category, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert one == same != other


@pytest.mark.parametrize(
    ("wanted", "thing", "admitted"),
    [
        (Wanted("circle"), Thing("circle", "red"), True),
        (Wanted("circle"), Thing("square", "red"), False),
        (Wanted("circle", "red"), Thing("circle", "red"), True),
        (Wanted("circle", "red"), Thing("circle", "blue"), False),
        (Wanted("circle"), None, False),
    ],
)
def test_wanted_admits(wanted, thing, admitted):
    assert wanted.admits(thing) is admitted


def test_a_place_binds_the_first_thing_only():
    things = (Wanted("circle"), Wanted("square"))
    assert Request(things, "white").allows((7, 4))
    assert Request(things, "white", place=4).allows((4, 7))
    assert not Request(things, "white", place=4).allows((7, 4))
