"""The rollout's times as plain numbers, and which of them a query point means.

Nothing here needs torch: a configuration's query points are checked by the same two functions before torch is imported.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

Coordinate = Literal["index", "sigma", "logsnr"]


def rollout_times(steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """Times t_0 = 1 > ... > t_N = 0 of an N-step rollout, rounded to float32.

    Uniform in u, then shifted once: t = shift u / (1 + (shift - 1) u) (SD3, arXiv 2403.03206, section 5.3.2).

    >>> rollout_times(4)
    (1.0, 0.75, 0.5, 0.25, 0.0)
    >>> [round(t, 4) for t in rollout_times(4, shift=3.0)]
    [1.0, 0.9, 0.75, 0.5, 0.0]

    Raises:
        ValueError: if `steps` < 1 or `shift` <= 0.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}; a rollout needs at least 1")
    if not shift > 0:
        raise ValueError(f"shift = {shift}; it must be positive")
    uniform = [(steps - i) / steps for i in range(steps + 1)]
    return tuple(float(np.float32(shift * u / (1 + (shift - 1) * u))) for u in uniform)


def index_at(u: float, times: Sequence[float], coordinate: Coordinate) -> int:
    """The grid index of a point u in [0, 1], where 0 is noise and 1 is clean, measured in a coordinate.

    - `index`: floor(N u), the released code's choice; a schedule's shift moves the queried t.
    - `sigma`: the grid time nearest to t = 1 - u.
    - `logsnr`: the grid time whose log((1 - t)^2 / t^2) is nearest to the point u of the range that the grid spans
      between its second and its last query point (pure noise itself lies at minus infinity).

    The final clean state is never queried: the result is in [0, N - 1].

    >>> times = rollout_times(16, shift=3.0)
    >>> [index_at(0.5, times, coordinate) for coordinate in ("index", "sigma", "logsnr")]
    [8, 12, 8]
    """
    steps = len(times) - 1
    if coordinate == "index":
        return min(int(steps * u), steps - 1)
    if coordinate == "sigma":
        return min(range(steps), key=lambda i: abs(times[i] - (1 - u)))
    if steps == 1:
        return 0
    log_snr = [-math.inf, *(2 * math.log((1 - t) / t) for t in times[1:-1])]
    wanted = log_snr[1] + u * (log_snr[-1] - log_snr[1])
    return min(range(steps), key=lambda i: abs(log_snr[i] - wanted))
