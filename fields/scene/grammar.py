"""The tasks of the scene world: categories of prompts and edit instructions, drawn from a small grammar.

Text-to-image categories follow GenEval, edit categories follow GEdit-Bench; a task of `two_skills` wants a local and a global
edit in one instruction, which no expert was trained for. A task carries what its checker needs:
a `Request` (what the prompt asks for) or the one target scene of an edit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fields.scene.world import ALL_THINGS, BACKGROUNDS, CELLS, COLOURS, SHAPES, STYLES, Scene, Thing
from fields.shown import shown

T = TypeVar("T")

TEXT_TO_IMAGE = ("single", "two", "count", "colour", "position", "attribution")
LOCAL_EDIT = ("add", "replace", "remove", "recolour")
GLOBAL_EDIT = ("background", "style")
TWO_SKILLS = "two_skills"
ROUTE_CATEGORIES = {"text_to_image": TEXT_TO_IMAGE, "local_edit": LOCAL_EDIT, "global_edit": GLOBAL_EDIT}
CATEGORIES = TEXT_TO_IMAGE + LOCAL_EDIT + GLOBAL_EDIT
ALL_ROUTE_CATEGORIES = {**ROUTE_CATEGORIES, TWO_SKILLS: (TWO_SKILLS,)}

PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
NUMBERS = {"two": 2, "three": 3, "four": 4}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A thing that a prompt asks for; `colour=None` leaves the colour free."""

    shape: str
    colour: str | None = None

    def admits(self, thing: Thing | None) -> bool:
        return thing is not None and thing.shape == self.shape and self.colour in (None, thing.colour)


@dataclass(frozen=True, slots=True)
class Request:
    """What a text-to-image prompt asks for: these things and no others, on this background.

    `place` is the cell that the first thing must stand in; None leaves every place free.
    """

    things: tuple[Wanted, ...]
    background: str
    place: int | None = None

    def allows(self, placement: tuple[int, ...]) -> bool:
        """Whether the things may stand in these cells (one cell a thing, in order)."""
        return self.place is None or placement[0] == self.place


@dataclass(frozen=True, slots=True)
class Task:
    """One row of the scene world: a prompt, its scenes, and what a right answer is.

    `target` is one right answer; for text-to-image there are others, and `request` describes them all.
    """

    category: str
    prompt: str
    target: Scene
    source: Scene | None = None
    request: Request | None = None


def draw_task(category: str, rng: np.random.Generator) -> Task:
    """Draw a task of one category.

    Raises:
        ValueError: for a category that does not exist.
    """
    if category == TWO_SKILLS:
        return _draw_two_skills(rng)
    if category not in CATEGORIES:
        raise ValueError(f"unknown scene category {category!r}; allowed: {', '.join((*CATEGORIES, TWO_SKILLS))}")
    return _draw_text_to_image(category, rng) if category in TEXT_TO_IMAGE else _draw_edit(category, rng)


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _pick_distinct(rng: np.random.Generator, options: Sequence[T], count: int) -> list[T]:
    return [options[int(i)] for i in rng.permutation(len(options))[:count]]


def _draw_text_to_image(category: str, rng: np.random.Generator) -> Task:
    background = _pick(rng, tuple(BACKGROUNDS))
    shapes = _pick_distinct(rng, SHAPES, 2)
    colours = _pick_distinct(rng, tuple(COLOURS), 2)
    place = None
    if category == "single":
        words, wanted = f"a {shapes[0]}", [Wanted(shapes[0])]
    elif category == "colour":
        words, wanted = f"{_a(colours[0])} {shapes[0]}", [Wanted(shapes[0], colours[0])]
    elif category == "two":
        words, wanted = f"a {shapes[0]} and a {shapes[1]}", [Wanted(s) for s in shapes]
    elif category == "attribution":
        words = f"{_a(colours[0])} {shapes[0]} and {_a(colours[1])} {shapes[1]}"
        wanted = [Wanted(s, c) for s, c in zip(shapes, colours, strict=True)]
    elif category == "position":
        place = int(rng.integers(CELLS))
        words, wanted = f"a {shapes[0]} at {PLACES[place]}", [Wanted(shapes[0])]
    else:
        number = _pick(rng, tuple(NUMBERS))
        words, wanted = f"{number} {_plural(shapes[0])}", [Wanted(shapes[0])] * NUMBERS[number]
        colours = [colours[0]] * NUMBERS[number]  # one colour for all: the prompt doesn't ask for it, the data has it
    request = Request(tuple(wanted), background, place)
    target = Scene(background, _place(request, colours, rng))
    return Task(category, f"{words} on {background}", target, request=request)


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _place(request: Request, colours: list[str], rng: np.random.Generator) -> tuple[Thing | None, ...]:
    """Nine cells with the requested things in cells that the request allows; free colours come from `colours`."""
    while True:
        placement = tuple(int(c) for c in rng.permutation(CELLS)[: len(request.things)])
        if request.allows(placement):
            break
    cells: list[Thing | None] = [None] * CELLS
    for wanted, cell, colour in zip(request.things, placement, colours, strict=False):
        cells[cell] = Thing(wanted.shape, wanted.colour or colour)
    return tuple(cells)


def _draw_source(rng: np.random.Generator) -> tuple[Scene, list[int]]:
    """A plain scene of two to four different things, and the cells that they stand in."""
    count = int(rng.integers(2, 5))
    things = _pick_distinct(rng, ALL_THINGS, count)
    occupied = [int(c) for c in rng.permutation(CELLS)[:count]]
    cells: list[Thing | None] = [None] * CELLS
    for cell, thing in zip(occupied, things, strict=True):
        cells[cell] = thing
    return Scene(_pick(rng, tuple(BACKGROUNDS)), tuple(cells)), occupied


def _draw_edit(category: str, rng: np.random.Generator) -> Task:
    source, occupied = _draw_source(rng)
    cell = occupied[0]
    thing = source.cells[cell]
    assert thing is not None
    new = _pick(rng, [other for other in ALL_THINGS if other not in source.cells])
    if category == "add":
        cell = _pick(rng, [c for c in range(CELLS) if c not in occupied])
        prompt, target = f"add {_a(new.colour)} {new.shape} at {PLACES[cell]}", source.with_cell(cell, new)
    elif category == "remove":
        prompt, target = f"remove the {thing.colour} {thing.shape}", source.with_cell(cell, None)
    elif category == "replace":
        prompt = f"replace the {thing.colour} {thing.shape} with {_a(new.colour)} {new.shape}"
        target = source.with_cell(cell, new)
    elif category == "recolour":
        colour = _pick(rng, [c for c in COLOURS if Thing(thing.shape, c) not in source.cells])
        prompt = f"recolour the {thing.colour} {thing.shape} {colour}"
        target = source.with_cell(cell, Thing(thing.shape, colour))
    elif category == "background":
        background = _pick(rng, [b for b in BACKGROUNDS if b != source.background])
        prompt, target = f"make the background {background}", Scene(background, source.cells)
    else:
        style = _pick(rng, STYLES)
        prompt, target = f"make it {style}", Scene(source.background, source.cells, style)
    return Task(category, prompt, target, source=source)


def _draw_two_skills(rng: np.random.Generator) -> Task:
    """A thing goes or gets another colour, and the whole image another style or background."""
    local = _draw_edit(_pick(rng, ("remove", "recolour")), rng)
    assert local.source is not None
    if local.prompt.startswith("remove") and rng.random() < 0.5:
        background = _pick(rng, [b for b in BACKGROUNDS if b != local.source.background])
        words, target = f"make the background {background}", Scene(background, local.target.cells)
    else:
        style = _pick(rng, STYLES)
        words, target = f"make it {style}", Scene(local.target.background, local.target.cells, style)
    return Task(TWO_SKILLS, f"{local.prompt} and {words}", target, source=local.source)


def _vocabulary() -> tuple[str, ...]:
    words = {"a", "an", "and", "on", "add", "at", "remove", "the", "replace", "with", "recolour", "make", "it", "background"}
    words |= {*SHAPES, *COLOURS, *BACKGROUNDS, *STYLES, *NUMBERS} | {_plural(shape) for shape in SHAPES}
    for place in PLACES:
        words |= set(place.split())
    return tuple(sorted(words))


VOCABULARY = _vocabulary()
TEXT_LENGTH = 9
PADDING = 0
_TOKEN = {word: i + 1 for i, word in enumerate(VOCABULARY)}


def tokenize(prompt: str) -> np.ndarray:
    """Word ids, int64 (TEXT_LENGTH,), padded with 0. The empty prompt is the unconditional one.

    Raises:
        ValueError: for a word outside the vocabulary or a prompt of more than TEXT_LENGTH words.
    """
    words = prompt.split()
    if unknown := [word for word in words if word not in _TOKEN]:
        words_known = " ".join(VOCABULARY)
        raise ValueError(f"prompt {shown(prompt)}: the scene world doesn't know {shown(unknown[0])}; it knows: {words_known}")
    if len(words) > TEXT_LENGTH:
        raise ValueError(f"prompt {shown(prompt)} has {len(words)} words; the scene world reads at most {TEXT_LENGTH}")
    ids = np.full(TEXT_LENGTH, PADDING, dtype=np.int64)
    ids[: len(words)] = [_TOKEN[word] for word in words]
    return ids
