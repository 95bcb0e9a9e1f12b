"""A field's rollout, solved from noise to the query points and no further."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fields.carriers import Condition
from fields.method.solver import Euler, Solver, Velocity

TransitionNoise = Callable[[int, Int[Tensor, " rows"]], Float[Tensor, "rows ..."]]


@torch.no_grad()
def rollout(
    velocity: Velocity,
    noise: Float[Tensor, "batch ..."],
    grid: Float[Tensor, " points"],
    indices: Int[Tensor, "batch queries"],
    condition: Condition,
    solver: Solver,
    transition_noise: TransitionNoise | None = None,
) -> Float[Tensor, "queries batch ..."]:
    """Each sample's states at its own grid indices.

    A sample takes part in exactly `indices.max()` steps: the query points are drawn before the rollout and don't depend
    on it, so stopping there is exact. Index N is the clean image.

    Args:
        velocity: called as velocity(x_t, t, condition) on the samples still under way.
        noise: states at t = 1, float32.
        grid: times 1 = t_0 > ... > t_N = 0.
        indices: in [0, N], ascending in each row.
        condition: one row per sample.
        solver: makes a step.
        transition_noise: called as transition_noise(step, rows) by stochastic solvers; standard normal (rows, ...).
    """
    x = noise.clone()
    states = torch.stack([x] * indices.shape[1])
    last = indices[:, -1]
    for k in range(int(last.max())):
        active = (last > k).nonzero().flatten()
        eps = transition_noise(k, active) if transition_noise else None
        asked = condition.select(active)

        def conditioned(x_t: Tensor, t: Tensor, asked: Condition = asked) -> Tensor:
            return velocity(x_t, t, asked)

        x[active] = solver.step(conditioned, x[active], grid[k], grid[k + 1], eps)
        for query in range(indices.shape[1]):
            here = (indices[:, query] == k + 1).nonzero().flatten()
            states[query, here] = x[here]
    return states


def clean(
    velocity: Velocity, noise: Float[Tensor, "batch ..."], grid: Float[Tensor, " points"], condition: Condition, solver: Solver
) -> Float[Tensor, "batch ..."]:
    """The clean states at the end of the rollout: what evaluation and generation look at.

    >>> condition = Condition(tensors={"words": torch.zeros(1, 1)}, unconditional={})
    >>> clean(lambda x, t, c: 2 * x, torch.ones(1, 2), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]), condition, Euler()).tolist()
    [[0.0625, 0.0625]]
    """
    indices = torch.full((len(noise), 1), len(grid) - 1, device=noise.device)
    return rollout(velocity, noise, grid, indices, condition, solver)[0]


def generate(
    velocity: Velocity,
    noise: Float[Tensor, "batch ..."],
    grid: Float[Tensor, " points"],
    condition: Condition,
    device: torch.device,
) -> Float[Tensor, "batch ..."]:
    """Clean states on the CPU from inputs on the CPU, by Euler on the field's device: what services and workers answer."""
    return clean(velocity, noise.to(device), grid.to(device), condition.to(device), Euler()).cpu()
