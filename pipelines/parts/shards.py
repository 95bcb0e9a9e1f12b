"""What a rank keeps of a full student that the learner's ranks share: its shards, the blocks that are gathered to compute, and
a block's gradient on its way to the ranks that add it up."""

from dataclasses import dataclass

from torch import nn

from fields.carriers import Tensors
from fields.families.base import Family

FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class RankShare:
    """In bytes.

    Attributes:
        weights: float32 shards, buffers, and the block that computes with the one after it, in the network's type.
        kept: float32 shards of gradient, moments and average, and a block's gradient in the network's type and in float32.
        host: of the whole student, which rank 0 puts together to publish it, and copies.
    """

    weights: float
    kept: float
    host: float


def rank_share(family: Family, network: nn.Module, ranks: int) -> RankShare:
    """A rank's share of a network.

    Args:
        family: of the network.
        network: without values, in the type that it computes in.
        ranks: that share it.
    """
    values = sum(parameter.numel() for parameter in network.parameters())
    buffers = sum(buffer.numel() * buffer.itemsize for buffer in network.buffers())
    gathered = max(_values(block) for block in family.blocks(network))
    itemsize = family.dtype.itemsize
    return RankShare(
        weights=FLOAT32 * values / ranks + buffers + 2 * gathered * itemsize,
        kept=4 * FLOAT32 * values / ranks + gathered * (itemsize + FLOAT32),
        host=2 * FLOAT32 * values,
    )


def _values(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def train_without_gradients(network: nn.Module) -> Tensors:
    """Let a network be trained whose gradients are gone as soon as they are there, to measure the rest; its parameters."""
    for parameter in network.parameters():
        parameter.requires_grad_(True)
        parameter.register_post_accumulate_grad_hook(_forget)
    return dict(network.named_parameters())


def _forget(parameter: nn.Parameter) -> None:
    parameter.grad = None
