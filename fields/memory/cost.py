"""What a forward, or a forward and backward, of a network costs."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from fields.carriers import Condition
from fields.data.size import Size
from fields.families.base import Family
from fields.memory.attention import fused_attention
from fields.memory.operator_costs import OperatorCosts

_META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one pass.

    Attributes:
        peak_bytes: the most that was alive beside weights and inputs: activations, gradients, and what is made on the way.
        flops: of matrix products, convolutions and attention; an addition counts as one, and so does a multiplication.
    """

    peak_bytes: int
    flops: float


@dataclass(frozen=True, slots=True)
class Pass:
    """What is computed at once.

    Attributes:
        samples: that share a forward.
        size: of their images or clips.
        still: of the largest images among them, which is what a model of images computes beside one of clips; None if all are.
        sources: source images of each.
        branches: velocities of each sample whose graphs are kept together; 2 with the one without a prompt.
    """

    samples: int
    size: Size
    sources: int = 0
    branches: int = 1
    still: Size | None = None

    def seen_by(self, family: Family) -> "Pass":
        """The same for another model's family: with a source image never, where there is one, or always; without clips where
        it makes images."""
        sources = {"none": 0, "optional": self.sources, "required": max(1, self.sources)}[family.source]
        return replace(self, sources=sources, size=self.size if family.makes_clips else self.still or self.size)

    def __str__(self) -> str:
        images = ("", " with a source image")[self.sources] if self.sources < 2 else f" with {self.sources} source images"
        return f"{self.samples} samples of {self.size} pixels{images}"


def forward_cost(family: Family, transformer: nn.Module, what: Pass) -> Cost:
    """Of velocities without gradients.

    Args:
        family: how the network is called.
        transformer: on the meta device.
        what: is computed.
    """
    with torch.no_grad():
        return _cost(family, transformer, what, backward=False)


def update_cost(family: Family, transformer: nn.Module, what: Pass) -> Cost:
    """Of a mean squared error and its gradient with respect to whatever the network has that requires one; arguments as
    `forward_cost` has them."""
    return _cost(family, transformer, what, backward=True)


@torch.no_grad()
def encoding_cost(family: Family, size: Size, sources: int) -> int:
    """The most bytes that encoding or decoding one row takes beside the weights; 0 where no network does.

    Args:
        family: what encodes.
        size: of the row's images or clip.
        sources: its source images.
    """
    peak = 0
    for encode in family.encoding_passes(size, sources):
        with fused_attention(), OperatorCosts() as costs:
            encode()
        peak = max(peak, costs.peak)
    return peak


def _cost(family: Family, transformer: nn.Module, what: Pass, backward: bool) -> Cost:
    x_t = torch.empty(what.samples, *family.latent_shape(what.size), device=_META)
    t = torch.empty(what.samples, device=_META)
    condition = Condition(tensors=family.widest_inputs(what.samples, what.size, what.sources), unconditional={})
    with fused_attention() as attention, OperatorCosts() as costs:
        velocities = [family.velocity(transformer, x_t, t, condition) for _ in range(what.branches)]
        if backward:
            loss = torch.stack([(velocity - torch.empty_like(velocity)).square().mean() for velocity in velocities])
            loss.sum().backward()
    for parameter in transformer.parameters():
        parameter.grad = None
    return Cost(costs.peak, costs.flops + attention.total)
