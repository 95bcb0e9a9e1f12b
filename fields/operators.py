"""Operators: a field made of evaluations of another one, at the same (x_t, t), in one batched forward."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fields.carriers import Condition
from fields.rollout import Velocity


@runtime_checkable
class Operator(Protocol):
    """What makes a field of another one."""

    def apply(self, velocity: Velocity, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The operator's velocity at (x_t, t), float32."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """The field itself."""

    def apply(self, velocity: Velocity, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """velocity(x_t, t, c), float32."""
        return velocity(x_t, t, condition).float()


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance: v_u + scale (v_c - v_u) (Ho and Salimans, arXiv 2207.12598), combined in float32."""

    scale: float

    def apply(self, velocity: Velocity, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Both branches as one batch of twice the size; `without_prompt` is the unconditional branch."""
        both = Condition.concatenate([condition, condition.without_prompt()])
        v_c, v_u = velocity(torch.cat([x_t, x_t]), torch.cat([t, t]), both).float().chunk(2)
        return v_u + self.scale * (v_c - v_u)
