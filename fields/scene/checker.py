"""Judge an image of the scene world exactly: pass or fail, and how near it came.

Every judgement compares cells of the image with renderings, so it needs no learned judge and has no noise of its own.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from fields.scene.grammar import Request, Task, Wanted
from fields.scene.world import (
    ALL_THINGS,
    BACKGROUNDS,
    CELLS,
    PLAIN,
    STYLES,
    Scene,
    Thing,
    join_cells,
    render,
    render_cell,
    split_cells,
)

TOLERANCE = 0.15  # root mean square error, in units of the [0, 1] colour range, up to which a cell counts as drawn
LIKENESS_SPAN = 0.4  # the error at which the likeness of a cell reaches 0
SAME = 0.02  # renderings nearer than this are one picture: in monochrome, yellow on sky is no thing at all
CONTENTS: tuple[Thing | None, ...] = (None, *ALL_THINGS)


@dataclass(frozen=True, slots=True)
class Score:
    """`passed`: the image is right. `graded`, in [0, 1]: how near it came, 1 for a perfect rendering."""

    passed: bool
    graded: float


def check(task: Task, image: np.ndarray) -> Score:
    """Score an image, float (3, 24, 24) in [0, 1] (values outside are clipped), against its task."""
    image = np.clip(image, 0.0, 1.0).astype(np.float64)
    if task.request is not None:
        return _check_request(task.request, image)
    assert task.source is not None
    return _check_edit(task.source, task.target, image)


def _errors(image: np.ndarray, background: str, style: str) -> np.ndarray:
    """Root mean square error of each cell against each possible content, (9, 25)."""
    templates = np.stack([render_cell(content, background, style) for content in CONTENTS]).astype(np.float64)
    return np.sqrt(((split_cells(image)[:, None] - templates) ** 2).mean(axis=(2, 3, 4)))


def _check_request(request: Request, image: np.ndarray) -> Score:
    """Graded: the likeness to the nearest image that the prompt allows, over every allowed placement.

    Likeness of the things times likeness of the empty cells. The likeness of a thing reaches 0 at the error of an empty
    cell, at the latest: a blank canvas of the right background scores 0.
    """
    errors = _errors(image, request.background, PLAIN)
    blank = _errors(join_cells(np.stack([render_cell(None, request.background)] * CELLS)), request.background, PLAIN)[0]
    span = np.minimum(LIKENESS_SPAN, np.where(blank > 0, blank, LIKENESS_SPAN))
    likeness = np.clip(1 - errors / span, 0, 1)
    thing_likeness = [likeness[:, _admitted(wanted)].max(axis=1) for wanted in request.things]
    empty = likeness[:, 0]
    best = 0.0
    for placement in permutations(range(CELLS), len(request.things)):
        if request.allows(placement):
            things = sum(thing_likeness[i][cell] for i, cell in enumerate(placement)) / len(placement)
            rest = (empty.sum() - sum(empty[cell] for cell in placement)) / (CELLS - len(placement))
            best = max(best, float(things * rest))
    drawn = bool((errors.min(axis=1) < TOLERANCE).all())
    return Score(drawn and _fulfils(request, errors.argmin(axis=1), image), best)


def _admitted(wanted: Wanted) -> list[int]:
    return [i for i, content in enumerate(CONTENTS) if wanted.admits(content)]


def _fulfils(request: Request, read: np.ndarray, image: np.ndarray) -> bool:
    """Whether the contents read from the image are what the prompt asks for, on the background it names."""
    occupied = [cell for cell in range(CELLS) if CONTENTS[read[cell]] is not None]
    if len(occupied) != len(request.things):
        return False
    mean = {b: float(_errors(image, b, PLAIN).min(axis=1).mean()) for b in BACKGROUNDS}
    if min(mean, key=mean.__getitem__) != request.background:
        return False
    return any(
        request.allows(placement)
        and all(w.admits(CONTENTS[read[cell]]) for w, cell in zip(request.things, placement, strict=True))
        for placement in permutations(occupied)
    )


def _check_edit(source: Scene, target: Scene, image: np.ndarray) -> Score:
    """Graded: progress on the pixels that must change times preservation of the others.

    Progress is 0 for an untouched source and 1 for the target.
    """
    before, after = render(source).astype(np.float64), render(target).astype(np.float64)
    changed = np.abs(before - after).max(axis=0) > 1e-3
    distance = np.abs(image - after)
    progress = 1 - distance[:, changed].mean() / np.abs(before - after)[:, changed].mean()
    kept = distance[:, ~changed]
    preservation = 1 - kept.mean() / LIKENESS_SPAN if kept.size else 1.0
    graded = float(np.clip(progress, 0, 1) * np.clip(preservation, 0, 1))

    errors = _errors(image, target.background, target.style)
    wanted = errors[np.arange(CELLS), [CONTENTS.index(content) for content in target.cells]]
    nearest = np.min([_errors(image, target.background, style).min(axis=1) for style in (PLAIN, *STYLES)], axis=0)
    return Score(bool((wanted < TOLERANCE).all() and (wanted <= nearest + SAME).all()), graded)
