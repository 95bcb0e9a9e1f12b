"""From a prompt to pictures: encoder, a model's rollout, decoder, each in its own service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from torch import Tensor

from fields.carriers import Condition
from fields.data.images import encode_png
from fields.data.rows import Row
from fields.method.plan import noise
from services.encoders import Encoders

Generate = Callable[[Tensor, Tensor, Condition], Awaitable[Tensor]]  # clean states from (noise, grid, condition)


class Refused(ValueError):
    """The model family refuses a prompt or a source image."""


class Studio:
    """Models that answer the same request side by side.

    Args:
        encoders: encode rows and decode clean states.
        models: what is served -> generates with it.
        reads: what is served -> the models beside the run's own that it reads; no entry is none.
        latent_shape: of one image's state.
        grid: the rollout's times for images of that shape.
    """

    def __init__(
        self,
        encoders: Encoders,
        models: Mapping[str, Generate],
        reads: Mapping[str, Sequence[str]],
        latent_shape: tuple[int, ...],
        grid: Tensor,
    ):
        self._encoders = encoders
        self._models = models
        self._reads = reads
        self._latent_shape = latent_shape
        self._grid = grid

    async def pictures(self, model: str, row: Row, seed: int, n: int) -> list[bytes]:
        """PNG images; image k is decided by (model, row, seed, k), whatever n is.

        Raises:
            Refused: for a row that the model family cannot encode; says why.
        """
        condition = await self._condition(row, self._reads.get(model, ()))

        async def picture(k: int) -> bytes:
            x_T = noise(seed, (k,), self._latent_shape)
            x_0 = await self._models[model](x_T, self._grid, condition)
            (image,) = await self._encoders.decode(x_0)
            return encode_png(image)

        return await asyncio.gather(*(picture(k) for k in range(n)))

    async def _condition(self, row: Row, models: Sequence[str]) -> Condition:
        try:
            return await self._encoders.encode([row], models)
        except ValueError as error:  # from a replica it comes with its trace, which stays here
            raise Refused(str(getattr(error, "cause", error)).removeprefix(f"row {row.uid!r}: ")) from error
