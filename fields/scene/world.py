"""The scene world: 3 x 3 cells of 8 x 8 pixels, each empty or holding one coloured shape.

The renderer is exact and deterministic, so an image can be judged by comparing it with renderings: no judge model.
Images are float32 arrays of shape (3, 24, 24) with values in [0, 1].
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np

CELL = 8
GRID = 3
CELLS = GRID * GRID
SIZE = CELL * GRID

SHAPES = ("circle", "cross", "square", "triangle")
COLOURS = {
    "blue": (0.15, 0.30, 0.90),
    "green": (0.15, 0.70, 0.25),
    "orange": (0.98, 0.55, 0.10),
    "purple": (0.60, 0.20, 0.75),
    "red": (0.90, 0.15, 0.15),
    "yellow": (0.95, 0.85, 0.15),
}
BACKGROUNDS = {
    "black": (0.05, 0.05, 0.05),
    "grey": (0.55, 0.55, 0.55),
    "sky": (0.65, 0.85, 0.95),
    "white": (1.0, 1.0, 1.0),
}
STYLES = ("monochrome", "negative", "outline")
PLAIN = "plain"

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SUPERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape."""

    shape: str
    colour: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What an image shows: a background, nine cells in row order, and the style it is drawn in."""

    background: str
    cells: tuple[Thing | None, ...]
    style: str = PLAIN

    def with_cell(self, cell: int, thing: Thing | None) -> "Scene":
        """The same scene with another content in one cell."""
        return replace(self, cells=(*self.cells[:cell], thing, *self.cells[cell + 1 :]))


ALL_THINGS: tuple[Thing, ...] = tuple(Thing(shape, colour) for shape, colour in product(SHAPES, COLOURS))


@cache
def _mask(shape: str) -> np.ndarray:
    """Anti-aliased coverage (8, 8) in [0, 1] of a shape within its cell."""
    n = CELL * _SUPERSAMPLING
    axis = (np.arange(n) + 0.5) / n * 2 - 1  # cell coordinates in [-1, 1]
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside = {
        "circle": x**2 + y**2 <= 0.85**2,
        "square": np.maximum(abs(x), abs(y)) <= 0.75,
        "triangle": (abs(x) <= (y + 0.85) / 1.6 * 0.9) & (y <= 0.75),
        "cross": (np.maximum(abs(x), abs(y)) <= 0.875) & (np.minimum(abs(x), abs(y)) <= 0.26),
    }[shape]
    s = _SUPERSAMPLING
    return inside.reshape(CELL, s, CELL, s).mean(axis=(1, 3)).astype(np.float32)


@cache
def _outline(shape: str) -> np.ndarray:
    """Coverage of the shape's border alone: its mask less the mask eroded by one pixel."""
    mask = _mask(shape)
    padded = np.pad(mask, 1)
    neighbours = [padded[1 + dy : 1 + dy + CELL, 1 + dx : 1 + dx + CELL] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    return mask - np.minimum.reduce([mask, *neighbours])


@cache
def render_cell(thing: Thing | None, background: str, style: str = PLAIN) -> np.ndarray:
    """One cell, (3, 8, 8) in [0, 1]. Read-only: the array is shared between calls."""
    ground = np.broadcast_to(np.array(BACKGROUNDS[background], dtype=np.float32)[:, None, None], (3, CELL, CELL))
    cell = ground
    if thing is not None:
        mask = _outline(thing.shape) if style == "outline" else _mask(thing.shape)
        colour = np.array(COLOURS[thing.colour], dtype=np.float32)[:, None, None]
        cell = ground * (1 - mask) + colour * mask
    if style == "monochrome":
        cell = np.broadcast_to(np.tensordot(_LUMINANCE, cell, axes=1)[None], cell.shape)
    elif style == "negative":
        cell = 1 - cell
    cell = np.ascontiguousarray(cell, dtype=np.float32)
    cell.flags.writeable = False
    return cell


def render(scene: Scene) -> np.ndarray:
    """The scene's image, (3, 24, 24) in [0, 1]."""
    cells = np.stack([render_cell(thing, scene.background, scene.style) for thing in scene.cells])
    return join_cells(cells)


def join_cells(cells: np.ndarray) -> np.ndarray:
    """(9, 3, 8, 8) -> (3, 24, 24)."""
    return cells.reshape(GRID, GRID, 3, CELL, CELL).transpose(2, 0, 3, 1, 4).reshape(3, SIZE, SIZE)


def split_cells(image: np.ndarray) -> np.ndarray:
    """(3, 24, 24) -> (9, 3, 8, 8)."""
    return image.reshape(3, GRID, CELL, GRID, CELL).transpose(1, 3, 0, 2, 4).reshape(CELLS, 3, CELL, CELL)
