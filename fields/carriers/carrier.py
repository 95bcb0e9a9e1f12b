"""How a carrier is pickled: tensors as numpy views, those of types that numpy lacks (bfloat16) as bytes.

Ray maps numpy buffers from shared memory without a copy. Unpickling copies them into fresh tensors: a mapped buffer is
read-only and may be aligned differently, which changes the last bits of a CPU kernel.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

Tensors = Mapping[str, Shaped[Tensor, "..."]]


class Carrier:
    """Base of the carriers: pickled field by field, tensors as numpy arrays."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        own: Any = self  # every carrier is a dataclass
        packed = {field.name: pack(getattr(self, field.name)) for field in dataclasses.fields(own)}
        return _rebuild, (type(self), packed)


@dataclass(frozen=True, slots=True)
class _Packed:
    bytes: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]


def pack(value: Any) -> Any:
    """A value in which tensors are what is pickled for them, down to those in mappings."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        return _Packed(data.reshape(-1).view(torch.uint8).numpy(), data.dtype, tuple(data.shape))
    if isinstance(value, Mapping):
        return {key: pack(item) for key, item in value.items()}
    return value


def unpack(value: Any) -> Any:
    """The value that was packed, with tensors of its own."""
    if isinstance(value, _Packed):
        if value.bytes.size == 0:
            return torch.empty(value.shape, dtype=value.dtype)
        return torch.from_numpy(value.bytes.copy()).view(value.dtype).reshape(value.shape)
    if isinstance(value, Mapping):
        return {key: unpack(item) for key, item in value.items()}
    return value


def _rebuild(cls: type, packed: dict[str, Any]) -> Any:
    return cls(**{name: unpack(value) for name, value in packed.items()})
