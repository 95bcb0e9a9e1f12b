"""The student's ODE, solved from noise to the query point and no further."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fields.carriers import Condition

Velocity = Callable[[Tensor, Tensor, Condition], Tensor]


@torch.no_grad()
def rollout(
    velocity: Velocity,
    noise: Float[Tensor, "batch ..."],
    grid: Float[Tensor, " points"],
    index: Int[Tensor, " batch"],
    condition: Condition,
) -> Float[Tensor, "batch ..."]:
    """Each sample's state at its own grid index, by Euler: x <- x + (t_next - t) v(x, t, c).

    A sample takes part in exactly `index` evaluations: the query point is drawn before the rollout and doesn't depend
    on it, so stopping there is exact. `index = N` gives the clean image.

    Args:
        velocity: called as velocity(x_t, t, condition) on the samples still under way.
        noise: states at t = 1, float32.
        grid: times 1 = t_0 > ... > t_N = 0.
        index: in [0, N].
        condition: one row a sample.
    """
    x = noise.clone()
    for k in range(int(index.max())):
        active = (index > k).nonzero().flatten()
        x_k = x[active]
        t_k = grid[k].expand(len(active))
        x[active] = x_k + (grid[k + 1] - grid[k]) * velocity(x_k, t_k, condition.select(active)).float()
    return x
