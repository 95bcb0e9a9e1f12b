"""From a prompt to pictures: encoder, a model's rollout, decoder, each in its own service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from torch import Tensor

from fields.carriers import Condition
from fields.data.images import encode
from fields.data.rows import Row
from fields.families.base import Family
from fields.method.plan import noise
from fields.method.time_grid import Grid
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
        family: of the run's model: which size a row has, and the shape of its state.
        grid: the rollout's times by size.
    """

    def __init__(
        self,
        encoders: Encoders,
        models: Mapping[str, Generate],
        reads: Mapping[str, Sequence[str]],
        family: Family,
        grid: Grid,
    ):
        self._encoders = encoders
        self._models = models
        self._reads = reads
        self._family = family
        self._grid = grid

    async def pictures(self, model: str, row: Row, seed: int, n: int) -> list[bytes]:
        """PNG images, of clips animated GIFs; image k is decided by (model, row, seed, k), whatever n is.

        Raises:
            Refused: for a row that the model family cannot encode; says why.
        """
        condition = await self._condition(row, self._reads.get(model, ()))
        size = self._family.size(row)

        async def picture(k: int) -> bytes:
            x_T = noise(seed, (k,), self._family.latent_shape(size))
            x_0 = await self._models[model](x_T, self._grid(size), condition)
            (image,) = await self._encoders.decode(x_0)
            return encode(image)

        return await asyncio.gather(*(picture(k) for k in range(n)))

    async def _condition(self, row: Row, models: Sequence[str]) -> Condition:
        try:
            return await self._encoders.encode([row], models)
        except ValueError as error:  # from a replica it comes with its trace, which stays here
            raise Refused(str(getattr(error, "cause", error)).removeprefix(f"row {row.uid!r}: ")) from error
