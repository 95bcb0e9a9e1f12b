"""What is minimised: each sample's squared difference of velocities, weighted in t as the method says.

An objective sees the student's and the expert's velocities at (x_t, t), and the time `t_next` to which the rollout's step
from there leads. Losses are float32 (batch,).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fields.carriers import Query, Target
from fields.method.solver import diffusion_scale

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The student's velocity at a query's states, and without the prompt where the query wants both branches."""

    velocity: Float[Tensor, "batch ..."]
    unconditional: Float[Tensor, "batch ..."] | None = None


def squared_error(velocity: Float[Tensor, "batch ..."], target: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Each sample's mean squared difference, float32.

    >>> squared_error(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 4.0], [3.0, 4.0]])).tolist()
    [2.0, 12.5]
    """
    return (velocity.float() - target.float()).square().flatten(1).mean(dim=1)


@dataclass(frozen=True, slots=True)
class VelocityMse:
    """|| v_theta - v_m ||^2 at every queried state alike, or weighted by t^power.

    Power 0 is the paper's objective (DanceOPD, arXiv 2606.27377). With power 2 it is the error of the clean image that
    the student implies, x_0 = x_t - t v.
    """

    power: float = 0.0
    both_branches: ClassVar[bool] = False
    over_queries: ClassVar[Reduction] = "mean"

    def loss(self, student: Prediction, target: Target, query: Query) -> Float[Tensor, " batch"]:
        """Each sample's loss."""
        error = squared_error(student.velocity, target.velocity)
        return error if self.power == 0 else query.t.to(error.device) ** self.power * error


@dataclass(frozen=True, slots=True)
class TransitionKl:
    """KL divergence of the rollout's Gaussian transitions, summed over a sample's queries.

    With variance 1 for every step (DiffusionOPD, arXiv 2605.15055): dt^2 / 2 || dv ||^2, each step's own dt. With the
    transitions of the stochastic rollout (Flow-OPD, arXiv 2605.08063), whose mean moves by (1 + s^2 (1 - t) / (2 t)) dt dv
    and whose variance is s^2 dt:

        (1 + s^2 (1 - t) / (2 t))^2 dt / (2 s^2) || dv ||^2,      s = eta sqrt(t / (1 - t))

    It is the direct KL, not a policy gradient: with a detached advantage and no baseline that has zero expected gradient.

    Attributes:
        eta: of the stochastic rollout, whose s at t = 1 is taken at t_next; None is the ODE form.
    """

    eta: float | None = None
    both_branches: ClassVar[bool] = False
    over_queries: ClassVar[Reduction] = "sum"

    def weight(self, t: float, t_next: float) -> float:
        """The factor of || dv ||^2 for the step from t to t_next.

        >>> TransitionKl().weight(0.75, 0.5)
        0.03125
        """
        dt = t - t_next
        if self.eta is None:
            return dt**2 / 2
        variance = diffusion_scale(self.eta, t, t_next) ** 2
        return (1 + variance * (1 - t) / (2 * t)) ** 2 * dt / (2 * variance)

    def loss(self, student: Prediction, target: Target, query: Query) -> Float[Tensor, " batch"]:
        """Each sample's loss."""
        error = squared_error(student.velocity, target.velocity)
        weights = [self.weight(t, t_next) for t, t_next in zip(query.t.tolist(), query.t_next.tolist(), strict=True)]
        return torch.tensor(weights, device=error.device) * error


@dataclass(frozen=True, slots=True)
class PredictionDifference:
    """PDM (arXiv 2607.24731): the velocity's error plus `weight` times the error of the prompt's effect v_c - v_u."""

    weight: float
    both_branches: ClassVar[bool] = True
    over_queries: ClassVar[Reduction] = "mean"

    def loss(self, student: Prediction, target: Target, query: Query) -> Float[Tensor, " batch"]:
        """Each sample's loss."""
        assert student.unconditional is not None, "PDM needs both branches of the student"
        assert target.unconditional is not None, "PDM needs both branches of the expert"
        effect = student.velocity.float() - student.unconditional.float()
        wanted = target.velocity.float() - target.unconditional.float()
        return squared_error(student.velocity, target.velocity) + self.weight * squared_error(effect, wanted)


Objective = VelocityMse | TransitionKl | PredictionDifference
