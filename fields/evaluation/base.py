"""What a run is evaluated by: the same rows and the same noise for every model, and what is made of their images.

The scene world's exam (`fields/scene/exam.py`) marks its answers; grids of the routes' first rows
(`fields/evaluation/route_grids.py`) are for families whose images only people, or a metric, can judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fields.data.images import to_bytes
from fields.data.rows import Row

Skills = dict[str, dict[str, float]]  # what is measured (a category, a route) -> measure -> value
THUMBNAIL = 256  # pixels of the longer side
_COLUMNS = 8
_STRIP = 8  # frames of a clip's contact sheet
_SHOWN = 16  # frames of a clip's animation


@runtime_checkable
class Sheet(Protocol):
    """Rows that are answered as one batch, of one size, all with or all without a source image, and their noise."""

    @property
    def rows(self) -> list[Row]: ...

    @property
    def noise(self) -> Float[Tensor, "batch ..."]: ...


@dataclass(frozen=True, slots=True)
class KeptAnswers:
    """What is kept of one sheet's answers until all sheets are answered: a clip as it is decoded is hundreds of megabytes.

    Attributes:
        shown: of each row what a report shows, and an exam marks, (3, H, W) or (3, frames, H, W), float32, [0, 1].
        pixels: of each row what metrics see, uint8 (frames, H, W, 3), an image as one frame; empty where there are none.
    """

    shown: Sequence[np.ndarray]
    pixels: Sequence[np.ndarray] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamResult:
    """One model's answers, those of each sheet as they are shown, and what was measured of them."""

    answers: Sequence[Sequence[np.ndarray]]
    skills: Skills

    @property
    def picture(self) -> np.ndarray:
        """The first eight answers of every sheet, a line per sheet, as stills: (3, height, width) in [0, 1]."""
        lines = [[still(image) for image in images[:_COLUMNS]] for images in self.answers]
        columns = max(len(line) for line in lines)
        height, width = (max(image.shape[axis] for line in lines for image in line) for axis in (1, 2))
        tiles = np.ones((len(lines) * columns, 3, height, width), dtype=np.float32)
        for number, line in enumerate(lines):
            for column, image in enumerate(line):
                tiles[number * columns + column, :, : image.shape[1], : image.shape[2]] = image
        return picture_of(tiles, columns)


@runtime_checkable
class Evaluation(Protocol):
    """The same questions, sheet by sheet, for whoever answers them."""

    @property
    def sheets(self) -> Sequence[Sheet]: ...

    def kept(self, answers: np.ndarray) -> KeptAnswers:
        """What is needed of the answers to a sheet: images (n, 3, H, W) or clips (n, 3, frames, H, W), as the family decodes
        them."""
        ...

    def result(self, answers: Sequence[KeptAnswers]) -> ExamResult:
        """What the answers to every sheet, in order, amount to."""
        ...


def still(made: np.ndarray) -> np.ndarray:
    """What paper shows of an answer, (3, height, width): an image's thumbnail; of a clip (3, frames, H, W) its contact sheet, a
    strip of at most eight evenly spaced frames."""
    if made.ndim == 3:
        return thumbnail(made)
    return np.concatenate([thumbnail(made[:, n], THUMBNAIL // 2) for n in _evenly(made.shape[1], _STRIP)], axis=2)


def on_screen(made: np.ndarray) -> np.ndarray:
    """What a screen shows of an answer: an image's thumbnail, (3, h, w); of a clip (3, frames, H, W) the thumbnails of at most
    sixteen evenly spaced frames, (3, frames, h, w)."""
    if made.ndim == 3:
        return thumbnail(made)
    return np.stack([thumbnail(made[:, n]) for n in _evenly(made.shape[1], _SHOWN)], axis=1)


def _evenly(frames: int, most: int) -> list[int]:
    return np.linspace(0, frames - 1, min(frames, most)).round().astype(int).tolist()


def thumbnail(image: np.ndarray, most: int = THUMBNAIL) -> np.ndarray:
    """An image (3, H, W) whose longer side has at most so many pixels; a small one is returned as it is."""
    _, height, width = image.shape
    if max(height, width) <= most:
        return image
    scale = most / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.fromarray(to_bytes(image)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / 255


def picture_of(images: np.ndarray, columns: int) -> np.ndarray:
    """(n, 3, H, W) -> one picture (3, rows H, columns W) in [0, 1], a pixel of white around each image."""
    padded = np.pad(np.clip(images, 0, 1), ((0, -len(images) % columns), (0, 0), (1, 1), (1, 1)), constant_values=1.0)
    n, c, h, w = padded.shape
    return padded.reshape(n // columns, columns, c, h, w).transpose(2, 0, 3, 1, 4).reshape(c, n // columns * h, columns * w)
