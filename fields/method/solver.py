"""How one step of a rollout is made, from t to t_next < t. The noise `eps` of a stochastic step comes from the sample plan."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fields.carriers import Condition

Velocity = Callable[[Float[Tensor, "batch ..."], Float[Tensor, " batch"], Condition], Float[Tensor, "batch ..."]]
# v(x, t) of given rows, whose condition is bound already
Conditioned = Callable[[Float[Tensor, "batch ..."], Float[Tensor, " batch"]], Float[Tensor, "batch ..."]]


@dataclass(frozen=True, slots=True)
class Euler:
    """x <- x + (t_next - t) v(x, t): one evaluation.

    >>> Euler().step(lambda x, t: 2 * x, torch.ones(1, 3), torch.tensor(1.0), torch.tensor(0.75), None).tolist()
    [[0.5, 0.5, 0.5]]
    """

    stochastic: ClassVar[bool] = False
    forwards: ClassVar[int] = 1  # of a step

    def step(
        self,
        velocity: Conditioned,
        x: Float[Tensor, "batch ..."],
        t: Float[Tensor, ""],
        t_next: Float[Tensor, ""],
        eps: Float[Tensor, "batch ..."] | None,
    ) -> Float[Tensor, "batch ..."]:
        """The state at t_next; t and t_next are scalars, x is (batch, ...)."""
        return x + (t_next - t) * velocity(x, t.expand(len(x))).float()


@dataclass(frozen=True, slots=True)
class Heun:
    """The mean of the velocities at both ends, the second at Euler's state: two evaluations, one for the last step.

    At t = 0 no field is asked: models are not trained there (Karras et al., arXiv 2206.00364, Algorithm 1).
    """

    stochastic: ClassVar[bool] = False
    forwards: ClassVar[int] = 2

    def step(
        self,
        velocity: Conditioned,
        x: Float[Tensor, "batch ..."],
        t: Float[Tensor, ""],
        t_next: Float[Tensor, ""],
        eps: Float[Tensor, "batch ..."] | None,
    ) -> Float[Tensor, "batch ..."]:
        """The state at t_next; t and t_next are scalars, x is (batch, ...)."""
        v = velocity(x, t.expand(len(x))).float()
        euler = x + (t_next - t) * v
        if float(t_next) == 0:
            return euler
        return x + (t_next - t) * (v + velocity(euler, t_next.expand(len(x))).float()) / 2


@dataclass(frozen=True, slots=True)
class EulerMaruyama:
    """A step of the stochastic rollout with the ODE's marginals (Flow-GRPO, arXiv 2505.05470; Flow-OPD, arXiv 2605.08063).

        x <- x + (v + s^2 / (2 t) (x + (1 - t) v)) (t_next - t) + s sqrt(t - t_next) eps,   s = eta sqrt(t / (1 - t))

    At t = 1, where s is infinite, it is taken at t_next, the grid's second time.
    """

    eta: float
    stochastic: ClassVar[bool] = True
    forwards: ClassVar[int] = 1

    def step(
        self,
        velocity: Conditioned,
        x: Float[Tensor, "batch ..."],
        t: Float[Tensor, ""],
        t_next: Float[Tensor, ""],
        eps: Float[Tensor, "batch ..."] | None,
    ) -> Float[Tensor, "batch ..."]:
        """The state at t_next; t and t_next are scalars, x and eps are (batch, ...)."""
        assert eps is not None, "a stochastic step needs noise"
        v = velocity(x, t.expand(len(x))).float()
        s = diffusion_scale(self.eta, float(t), float(t_next))
        drift = v + s**2 / (2 * t) * (x + (1 - t) * v)
        return x + drift * (t_next - t) + s * torch.sqrt(t - t_next) * eps


def diffusion_scale(eta: float, t: float, t_next: float) -> float:
    """eta sqrt(t / (1 - t)) for the step from t to t_next; at t = 1 the divisor is 1 - t_next, which is not 0.

    >>> diffusion_scale(0.5, 0.8, 0.6), diffusion_scale(0.5, 1.0, 0.75)
    (1.0, 1.0)
    """
    return eta * math.sqrt(t / (1 - (t if t < 1 else t_next)))


Solver = Euler | Heun | EulerMaruyama
