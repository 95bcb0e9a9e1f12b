"""Where along the rollout the expert is asked."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fields.schedule import Coordinate, index_at


@dataclass(frozen=True, slots=True)
class BetaQuery:
    """One query a sample, at a point u ~ Beta(a, b) from noise (0) to clean (1).

    The paper's low-noise query is Beta(5, 2) over the index (DanceOPD, arXiv 2606.27377, Algorithm 1).
    """

    a: float = 5.0
    b: float = 2.0
    coordinate: Coordinate = "index"

    def draw(self, rng: np.random.Generator, grid: Tensor) -> int:
        """The index of the queried state, in [0, N - 1]."""
        return index_at(float(rng.beta(self.a, self.b)), grid, self.coordinate)


@dataclass(frozen=True, slots=True)
class UniformQuery:
    """One query a sample, at a uniform point."""

    coordinate: Coordinate = "index"

    def draw(self, rng: np.random.Generator, grid: Tensor) -> int:
        """The index of the queried state, in [0, N - 1]."""
        return index_at(float(rng.random()), grid, self.coordinate)


QueryDistribution = BetaQuery | UniformQuery
