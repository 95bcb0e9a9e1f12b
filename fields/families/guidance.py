"""Guidance as some models' own pipelines do it, where it isn't the plain formula."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fields.carriers import Condition
from fields.rollout import Velocity


@dataclass(frozen=True, slots=True)
class DistilledGuidance:
    """Guidance that was distilled into the network, which is told the scale: one evaluation, no unconditional branch."""

    scale: float

    def apply(self, velocity: Velocity, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The velocity of a network that is told this scale, float32."""
        told = torch.full_like(condition.tensors["guidance"], self.scale)
        tensors = {**condition.tensors, "guidance": told}
        return velocity(x_t, t, Condition(tensors=tensors, unconditional=condition.unconditional)).float()


@dataclass(frozen=True, slots=True)
class NormedGuidance:
    """Classifier-free guidance whose result keeps the lengths of the conditional branch.

    Attributes:
        scale: v = v_u + scale (v_c - v_u), then v |v_c| / |v|.
        length: |v| of a velocity, in a shape that broadcasts with it; the model decides over which axes.
    """

    scale: float
    length: Callable[[Tensor], Tensor]

    def apply(self, velocity: Velocity, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Both branches as one batch of twice the size, combined in float32."""
        both = Condition.concatenate([condition, condition.without_prompt()])
        v_c, v_u = velocity(torch.cat([x_t, x_t]), torch.cat([t, t]), both).float().chunk(2)
        guided = v_u + self.scale * (v_c - v_u)
        return guided * (self.length(v_c) / self.length(guided))
