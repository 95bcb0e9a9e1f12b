"""How much fields disagree along the student's rollout: where in t, and on what, an expert has something to say."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from fields.carriers import Condition
from fields.method.rollout import rollout
from fields.method.solver import Euler, Velocity

STUDENT = "student"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Two fields at one t, means over samples.

    Attributes:
        cosine: of their velocities, in [-1, 1].
        difference: root mean square of v_a - v_b over the elements: the square root of the student's loss when b answers a.
    """

    t: float
    cosine: float
    difference: float


@torch.no_grad()
def disagreements(
    student: Velocity,
    experts: Mapping[str, Velocity],
    noise: Float[Tensor, "batch ..."],
    grid: Float[Tensor, " points"],
    condition: Condition,
) -> dict[tuple[str, str], list[Disagreement]]:
    """Every pair of fields, the student among them, at every query point of the student's own rollout, noise first."""
    steps = len(grid) - 1
    indices = torch.arange(steps).expand(len(noise), steps)
    states = rollout(student, noise, grid, indices, condition, Euler())
    fields = {STUDENT: student, **experts}
    pairs: dict[tuple[str, str], list[Disagreement]] = {pair: [] for pair in combinations(fields, 2)}
    for x_t, t in zip(states, grid[:-1], strict=True):
        velocities = {name: field(x_t, t.expand(len(x_t)), condition).float().flatten(1) for name, field in fields.items()}
        for (a, b), series in pairs.items():
            v_a, v_b = velocities[a], velocities[b]
            series.append(
                Disagreement(
                    t=float(t),
                    cosine=float(torch.cosine_similarity(v_a, v_b, dim=1).mean()),
                    difference=float((v_a - v_b).square().mean(dim=1).sqrt().mean()),
                )
            )
    return pairs
