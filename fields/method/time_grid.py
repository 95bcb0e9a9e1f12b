"""The rollout's grid of times, and the coordinates in which a query point can be drawn."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fields.data.size import Size

Coordinate = Literal["index", "sigma", "logsnr"]

Grid = Callable[[Size | None], Tensor]  # the rollout's times for images of a size; None is the family's default size


def time_grid(steps: int, shift: float = 1.0) -> Float[Tensor, " points"]:
    """Times t_0 = 1 > ... > t_N = 0 of an N-step rollout, float32 (N + 1,).

    Uniform in u, then shifted once: t = shift u / (1 + (shift - 1) u) (SD3, arXiv 2403.03206, section 5.3.2).

    Raises:
        ValueError: if `steps` < 1 or `shift` <= 0.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}; a rollout needs at least 1")
    if not shift > 0:
        raise ValueError(f"shift = {shift}; it must be positive")
    u = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return (shift * u / (1 + (shift - 1) * u)).float()


def index_at(u: float, grid: Tensor, coordinate: Coordinate) -> int:
    """The grid index of a point u in [0, 1], where 0 is noise and 1 is clean, measured in a coordinate.

    - `index`: floor(N u), the released code's choice; a schedule's shift moves the queried t.
    - `sigma`: the grid time nearest to t = 1 - u.
    - `logsnr`: the grid time whose log((1 - t)^2 / t^2) is nearest to the point u of the range that the grid spans
      between its second and its last query point (pure noise itself lies at minus infinity).

    The final clean state is never queried: the result is in [0, N - 1].
    """
    steps = len(grid) - 1
    if coordinate == "index":
        return min(int(steps * u), steps - 1)
    times = grid[:-1].double()
    if coordinate == "sigma":
        return int((times - (1 - u)).abs().argmin())
    if steps == 1:
        return 0
    log_snr = torch.tensor([-math.inf, *(2 * math.log((1 - t) / t) for t in times[1:].tolist())], dtype=torch.float64)
    wanted = log_snr[1] + u * (log_snr[-1] - log_snr[1])
    return int((log_snr - wanted).abs().argmin())
