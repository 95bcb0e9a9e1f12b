"""The report's image grids: what every model makes of the first rows of each route, side by side."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fields.data.images import FRAME_MS, decode_image, encode_gif, encode_png
from fields.evaluation.base import still, thumbnail
from fields.evaluation.route_grids import RouteGrids
from pipelines.run_folder.outcome import Outcome

ROWS = 8  # per route


@dataclass(frozen=True, slots=True)
class GridRow:
    """A prompt with the models' images in order of the columns, as data URIs; `source` is None for text-to-image.

    Attributes:
        sheets: of clips the contact sheets, in the same order, beside animations in `images`; empty of images.
    """

    prompt: str
    source: str | None
    images: Sequence[str]
    sheets: Sequence[str]


def grid_rows(outcome: Outcome, grids: RouteGrids, models: Sequence[str]) -> dict[str, list[GridRow]]:
    """Route -> its first rows."""
    routes: dict[str, list[GridRow]] = {}
    for number, sheet in enumerate(grids.sheets):
        shown = routes.setdefault(sheet.route, [])
        for n, row in enumerate(sheet.rows[: ROWS - len(shown)]):
            source = data_uri(decode_image(row.source_image, row.uid)) if row.source_image is not None else None
            made = [outcome.results[model].answers[number][n] for model in models]
            images = [data_uri(image) if image.ndim == 3 else animation_uri(image, sheet.size.frames) for image in made]
            sheets = [_uri("png", encode_png(still(image))) for image in made if image.ndim == 4]
            shown.append(GridRow(row.prompt, source, images, sheets))
    return routes


def grid_metrics(outcome: Outcome, models: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Route -> metric -> its values in order of the models; empty without metrics."""
    first, *_ = (outcome.results[model].skills for model in models)
    return {
        route: {name: [outcome.results[model].skills[route][name] for model in models] for name in metrics}
        for route, metrics in first.items()
    }


def data_uri(image: np.ndarray) -> str:
    """An image (3, H, W) in [0, 1] as a data URI, a large one as a thumbnail."""
    return _uri("png", encode_png(thumbnail(image)))


def animation_uri(clip: np.ndarray, frames: int) -> str:
    """Some frames of a clip, (3, n, H, W) in [0, 1], as the data URI of an animated GIF that takes as long as all `frames`."""
    return _uri("gif", encode_gif(clip, frames * FRAME_MS / 1000))


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode()}"
