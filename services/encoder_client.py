"""The client of the condition encoder."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import ray
from torch import Tensor

from fields.carriers import Condition
from fields.data.rows import Row
from services.client import RemoteMethod, ServiceClient

ConditionReference = ray.ObjectRef[Condition]


class _Handle(Protocol):
    """`EncoderService`, seen from elsewhere."""

    encode: RemoteMethod[[Sequence[Row], bool, bool], Condition]
    decode: RemoteMethod[[Tensor], np.ndarray]


class EncoderClient(ServiceClient[_Handle]):
    """Encodes rows and decodes clean states."""

    async def encode(self, rows: Sequence[Row], with_clean: bool = False, with_empty: bool = True) -> Condition:
        """The rows' conditions, in order, with their target images as clean states and with the empty prompt where asked for.

        Raises:
            ValueError: for a row that cannot be encoded; names it.
        """
        return (await self.encoded(rows, with_clean, with_empty))[0]

    async def encoded(
        self, rows: Sequence[Row], with_clean: bool = False, with_empty: bool = True
    ) -> tuple[Condition, ConditionReference]:
        """The same with its reference: to pass it on without the bytes."""
        request = partial(self._handle.encode.remote, rows, with_clean, with_empty)
        return await self._call(request, self._limits.timeout_s)

    async def decode(self, x_0: Tensor) -> np.ndarray:
        """Clean states as images (batch, 3, H, W) or clips (batch, 3, frames, H, W), float32, [0, 1] up to overshoot."""
        images, _ = await self._call(lambda: self._handle.decode.remote(x_0), self._limits.timeout_s)
        return images
