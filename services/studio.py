"""From a prompt to pictures: encoder, a model's rollout, decoder, each in its own service."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from fields.carriers import Condition
from fields.data.images import encode_png
from fields.data.rows import Row
from fields.method.plan import noise


class Caller(Protocol):
    """What calls a service: `ServiceClient`, or the service itself in one process."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """The answer of `method(*arguments)`."""
        ...


class Refused(ValueError):
    """The model family refuses a prompt or a source image."""


class Studio:
    """Models that answer the same request side by side.

    Args:
        encoder: encodes rows and decodes clean states.
        models: model -> the service that generates with it.
        latent_shape: of one image's state.
        grid: the rollout's times for images of that shape.
    """

    def __init__(self, encoder: Caller, models: Mapping[str, Caller], latent_shape: tuple[int, ...], grid: Tensor):
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
            x_0 = await self._models[model].call("generate", x_T, self._grid, condition)
            (image,) = await self._encoder.call("decode", x_0)
            return encode_png(image)

        return await asyncio.gather(*(picture(k) for k in range(n)))

    async def _condition(self, row: Row) -> Condition:
        try:
            return await self._encoder.call("encode", [row])
        except ValueError as error:  # from a replica it comes with its trace, which stays here
            raise Refused(str(getattr(error, "cause", error)).removeprefix(f"row {row.uid!r}: ")) from error
