"""Rows for the tiny pipelines."""

import numpy as np
from tiny_pipelines import SIZE

from fields.data.images import encode_png
from fields.data.rows import Row
from fields.families.pipeline import PipelineFamily

WIDTH, HEIGHT = SIZE.image


def png(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).random((3, HEIGHT, WIDTH), dtype=np.float32))


def row(family: PipelineFamily, prompt: str = "a red cat", source: int | None = None, **changes) -> Row:
    image = png(source or 0) if family.source == "required" or source is not None else None
    return Row("u7", "task", prompt, **{"source_image": image, **changes})
