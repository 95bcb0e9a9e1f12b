"""From a prompt to pictures: encoder, a model's rollout, decoder, each in its own service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from fields.carriers import Condition
from fields.data.images import encode_png
from fields.data.rows import Row
from fields.method.plan import noise

Generate = Callable[[Tensor, Tensor, Condition], Awaitable[Tensor]]  # clean states from (noise, grid, condition)


class Encoder(Protocol):
    """`EncoderClient`, or the service itself in one process."""

    async def encode(self, rows: Sequence[Row]) -> Condition:
        """The rows' conditions."""
        ...

    async def decode(self, x_0: Tensor) -> np.ndarray:
        """Clean states as images (batch, 3, H, W)."""
        ...


class Refused(ValueError):
    """The model family refuses a prompt or a source image."""


class Studio:
    """Models that answer the same request side by side.

    Args:
        encoder: encodes rows and decodes clean states.
        models: model -> generates with it.
        latent_shape: of one image's state.
        grid: the rollout's times for images of that shape.
    """

    def __init__(self, encoder: Encoder, models: Mapping[str, Generate], latent_shape: tuple[int, ...], grid: Tensor):
        self._encoder = encoder
        self._models = models
        self._latent_shape = latent_shape
        self._grid = grid

    async def pictures(self, model: str, row: Row, seed: int, n: int) -> list[bytes]:
        """PNG images; image k is decided by (model, row, seed, k), whatever n is.

        Raises:
            Refused: for a row that the model family cannot encode; says why.
        """
        condition = await self._condition(row)

        async def picture(k: int) -> bytes:
            x_T = noise(seed, (k,), self._latent_shape)
            x_0 = await self._models[model](x_T, self._grid, condition)
            (image,) = await self._encoder.decode(x_0)
            return encode_png(image)

        return await asyncio.gather(*(picture(k) for k in range(n)))

    async def _condition(self, row: Row) -> Condition:
        try:
            return await self._encoder.encode([row])
        except ValueError as error:  # from a replica it comes with its trace, which stays here
            raise Refused(str(getattr(error, "cause", error)).removeprefix(f"row {row.uid!r}: ")) from error
