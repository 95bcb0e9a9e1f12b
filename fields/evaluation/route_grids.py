"""Image grids of the first rows of every route, from noise that is the same at every evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fields.data.bucket import Bucket
from fields.data.images import to_bytes
from fields.data.rows import Row
from fields.data.size import Size
from fields.evaluation.base import ExamResult, KeptAnswers, Skills, on_screen
from fields.evaluation.metrics import Metric
from fields.families.base import Family
from fields.method.plan import Stream, noise


@dataclass(frozen=True, slots=True)
class RouteSheet:
    """Rows of one route and size, and their noise."""

    route: str
    size: Size
    rows: list[Row]
    noise: Float[Tensor, "batch ..."]


def frame_rows(row: Row, frames: int) -> list[Row]:
    """What a metric of images is told: of an image its row, of a clip a row for each frame, with that frame of the target.

    A target of other frames is none: metrics that compare with targets refuse rows without.

    Args:
        row: of the image or clip.
        frames: of it.
    """
    if frames == 1 and not row.target_frames:
        return [row]
    targets = row.targets if len(row.targets) == frames else (None,) * frames
    return [replace(row, frames=1, target_image=target, target_frames=()) for target in targets]


class RouteGrids:
    """An `Evaluation` for people's eyes.

    Args:
        buckets: route -> its rows.
        samples: how many rows of every route, or all if it has fewer.
        seed: of the noise; it doesn't share random numbers with training.
        family: says which size a row has, and the shape of its state.
        batch_size: most rows of a sheet.
        metrics: name -> metric that is taken of every route.

    Raises:
        ValueError: if a metric cannot be taken of a route; names both.
    """

    def __init__(
        self,
        buckets: Mapping[str, Bucket],
        samples: int,
        seed: int,
        family: Family,
        batch_size: int,
        metrics: Mapping[str, Metric],
    ):
        self._metrics = metrics
        self.sheets: list[RouteSheet] = []
        for number, (route, bucket) in enumerate(buckets.items()):
            by_size: dict[Size, dict[int, Row]] = {}
            for n in range(min(samples, len(bucket))):
                row = bucket[n]
                by_size.setdefault(family.size(row), {})[n] = row
            sized = [(row, size) for size, rows in by_size.items() for row in rows.values()]
            for name, metric in metrics.items():
                try:
                    metric.check([seen for row, size in sized for seen in frame_rows(row, size.frames)])
                except ValueError as error:
                    raise ValueError(f"{name}, of the route {route}: {error}") from error
            for size, rows in by_size.items():
                for start in range(0, len(rows), batch_size):
                    numbers = list(rows)[start : start + batch_size]
                    ids = [number * 100_000 + n for n in numbers]  # more rows leave the noise of earlier ones as it is
                    x_T = noise(seed, ids, family.latent_shape(size), Stream.QUESTION_NOISE)
                    self.sheets.append(RouteSheet(route, size, [rows[n] for n in numbers], x_T))

    def kept(self, answers: np.ndarray) -> KeptAnswers:
        """Thumbnails, of a clip those of a few frames; with metrics also every pixel, in one byte a colour."""
        return KeptAnswers([on_screen(made) for made in answers], [_pixels(made) for made in answers] if self._metrics else ())

    def result(self, answers: Sequence[KeptAnswers]) -> ExamResult:
        """The images, and by route what the metrics say of them; of a clip they see every frame."""
        skills = self._measured(answers) if self._metrics else {}
        return ExamResult(answers=[own.shown for own in answers], skills=skills)

    def _measured(self, answers: Sequence[KeptAnswers]) -> Skills:
        rows: dict[str, list[Row]] = {}
        images: dict[str, list[np.ndarray]] = {}
        for sheet, own in zip(self.sheets, answers, strict=True):
            for row, pixels in zip(sheet.rows, own.pixels, strict=True):
                rows.setdefault(sheet.route, []).extend(frame_rows(row, len(pixels)))
                images.setdefault(sheet.route, []).extend(pixels)
        return {
            route: {name: metric(rows[route], seen) for name, metric in self._metrics.items()} for route, seen in images.items()
        }


def _pixels(made: np.ndarray) -> np.ndarray:
    """(3, H, W) or (3, frames, H, W) as uint8 (frames, H, W, 3)."""
    frames = [made] if made.ndim == 3 else made.swapaxes(0, 1)
    return np.stack([to_bytes(frame) for frame in frames])
