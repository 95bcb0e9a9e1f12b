"""Scaled dot-product attention as fused kernels keep it: no matrix of scores, whatever the device would do."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class AttentionFlops:
    """Floating-point operations of attention: 4 b h l s d in a forward, 2.5 times that in a backward."""

    def __init__(self) -> None:
        self.total = 0.0


@contextmanager
def fused_attention() -> Generator[AttentionFlops]:
    """Within it attention computes no values; it keeps for the backward what flash attention does (Dao, arXiv 2307.08691).

    The function itself is replaced, in the whole process: a mode of torch would not be there when the backward computes
    activations again.
    """
    flops, usual = AttentionFlops(), F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, *_, **__: _Fused.apply(query, key, value, flops)
    try:
        yield flops
    finally:
        F.scaled_dot_product_attention = usual


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, flops: AttentionFlops) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        log_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.flops = flops
        flops.total += _forward_flops(query, key)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *_ = ctx.saved_tensors
        ctx.flops.total += 2.5 * _forward_flops(query, key)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _forward_flops(query: Tensor, key: Tensor) -> float:
    return 4.0 * query[..., 0].numel() * key.shape[-2] * query.shape[-1]
