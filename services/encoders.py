"""The condition encoders of a run as one: of its own model, and of every other model that an expert is of."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from fields.carriers import Condition
from fields.data.rows import Row
from services.encoder_client import ConditionReference, EncoderClient


class Encoders:
    """Encodes rows as several models read them, and decodes clean states, which are the same in all of them.

    Args:
        clients: model's name, None is the run's own -> the client of its encoder.
    """

    def __init__(self, clients: Mapping[str | None, EncoderClient]):
        self._clients = clients
        self._own = clients[None]

    async def encode(self, rows: Sequence[Row], models: Collection[str] = ()) -> Condition:
        """The rows' conditions, in order, with those of other models in them.

        Raises:
            ValueError: for a row that one of the models cannot encode; names it.
        """
        return (await self.encoded(rows, models=models))[0]

    async def encoded(
        self, rows: Sequence[Row], with_clean: bool = False, with_empty: bool = True, models: Collection[str] = ()
    ) -> tuple[Condition, dict[str, ConditionReference]]:
        """What `encode` gives, and by the model's name the references of what the other models read: to pass it on without its
        bytes.

        Args:
            rows: what is encoded.
            with_clean: whether their target images come as clean states.
            with_empty: whether the empty prompt's tensors come.
            models: beside the run's own.
        """
        asked = [replace(row, target_image=None, target_frames=()) for row in rows]  # a clip's frames are tens of megabytes
        reading = [self._clients[model].encoded(asked, with_empty=with_empty) for model in models]
        encoding = self._own.encode(rows if with_clean else asked, with_clean, with_empty)
        own, others = await asyncio.gather(encoding, asyncio.gather(*reading))
        found = dict(zip(models, others, strict=True))
        values = {model: condition for model, (condition, _) in found.items()}
        return own.with_others(values), {model: reference for model, (_, reference) in found.items()}

    async def decode(self, x_0: Tensor) -> np.ndarray:
        """Clean states as images (batch, 3, H, W) or clips (batch, 3, frames, H, W), float32, [0, 1] up to overshoot."""
        return await self._own.decode(x_0)
