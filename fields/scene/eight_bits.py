"""A large network in a small file: its matrices as whole numbers from -127 to 127 with a scale for every output."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fields.carriers import Tensors

_SCALE = ".scale"


def in_eight_bits(tensors: Tensors) -> dict[str, Shaped[Tensor, "..."]]:
    """Every matrix as int8 values and float32 scales, (out, 1), each named after its matrix; other tensors as they are."""
    stored = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            scale = (tensor.float().abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
            stored[name] = (tensor.float() / scale).round().to(torch.int8)
            stored[name + _SCALE] = scale
        else:
            stored[name] = tensor
    return stored


def from_eight_bits(stored: Tensors) -> dict[str, Float[Tensor, "..."]]:
    """The float32 tensors of a file whose matrices may be int8; off by at most half of a row's scale."""
    return {
        name: tensor.float() * stored[name + _SCALE] if name + _SCALE in stored else tensor.float()
        for name, tensor in stored.items()
        if not name.endswith(_SCALE)
    }
