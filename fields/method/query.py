"""Where along the rollout the expert is asked."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fields.method.time_grid import Coordinate, index_at

_MOST_REDRAWS = 100

Indices = tuple[int, ...]


def _distinct(k: int, grid: Tensor, coordinate: Coordinate, draw: Callable[[], float]) -> Indices:
    """`k` different indices, ascending: what was taken is drawn again, and at last replaced by the nearest free one."""
    taken: set[int] = set()
    for _ in range(k):
        for _ in range(_MOST_REDRAWS):
            index = index_at(draw(), grid, coordinate)
            if index not in taken:
                break
        else:
            free = [i for i in range(len(grid) - 1) if i not in taken]
            index = min(free, key=lambda i: (abs(i - index), i))
        taken.add(index)
    return tuple(sorted(taken))


@dataclass(frozen=True, slots=True)
class BetaQuery:
    """`k` queries per sample, at points u ~ Beta(a, b) from noise (0) to clean (1).

    The paper's low-noise query is Beta(5, 2) over the index (DanceOPD, arXiv 2606.27377, Algorithm 1).
    """

    a: float = 5.0
    b: float = 2.0
    coordinate: Coordinate = "index"
    k: int = 1

    def draw(self, n: int, rng: np.random.Generator, grid: Tensor) -> Indices:
        """The indices of the queried states of sample `n`, ascending, in [0, N - 1]."""
        return _distinct(self.k, grid, self.coordinate, lambda: float(rng.beta(self.a, self.b)))


@dataclass(frozen=True, slots=True)
class UniformQuery:
    """`k` queries per sample, at uniform points."""

    coordinate: Coordinate = "index"
    k: int = 1

    def draw(self, n: int, rng: np.random.Generator, grid: Tensor) -> Indices:
        """The indices of the queried states of sample `n`, ascending, in [0, N - 1]."""
        return _distinct(self.k, grid, self.coordinate, lambda: float(rng.random()))


@dataclass(frozen=True, slots=True)
class StratifiedQuery:
    """Uniform points of which any N consecutive ones, within and across samples, fall into N different strata."""

    coordinate: Coordinate = "index"
    k: int = 1

    def draw(self, n: int, rng: np.random.Generator, grid: Tensor) -> Indices:
        """The indices of the queried states of sample `n`, ascending, in [0, N - 1]."""
        steps = len(grid) - 1
        strata = iter([(n * self.k + i) % steps for i in range(self.k)])

        def point() -> float:
            stratum = next(strata, None)
            if stratum is None:  # two strata met in one index of another coordinate: drawn again from the whole range
                return float(rng.random())
            return (stratum + float(rng.random())) / steps

        return _distinct(self.k, grid, self.coordinate, point)


@dataclass(frozen=True, slots=True)
class FixedQuery:
    """The same points for every sample."""

    at: tuple[float, ...]
    coordinate: Coordinate = "index"

    def draw(self, n: int, rng: np.random.Generator, grid: Tensor) -> Indices:
        """The indices of the queried states, ascending, in [0, N - 1]."""
        return tuple(sorted({index_at(u, grid, self.coordinate) for u in self.at}))


@dataclass(frozen=True, slots=True)
class DenseQuery:
    """Every state of the rollout but the clean one (DiffusionOPD, arXiv 2605.15055)."""

    def draw(self, n: int, rng: np.random.Generator, grid: Tensor) -> Indices:
        """All indices from 0 to N - 1."""
        return tuple(range(len(grid) - 1))


QueryDistribution = BetaQuery | UniformQuery | StratifiedQuery | FixedQuery | DenseQuery
