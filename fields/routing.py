"""Which expert answers a sample: one, drawn by weight."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np

Granularity = Literal["sample", "microbatch", "step"]


@dataclass(frozen=True, slots=True)
class HardRouting:
    """One route for each unit, drawn with probability proportional to its weight.

    Attributes:
        weights: route name -> weight, not negative, at least one positive.
        granularity: what shares a draw: nothing (`sample`, the paper's method), a microbatch, or the whole optimizer
            step (the released code).
    """

    weights: Mapping[str, float]
    granularity: Granularity = "sample"

    def __post_init__(self) -> None:
        for route, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"route {route!r} has weight {weight}; a weight is finite and not negative")
        if sum(self.weights.values()) <= 0:
            raise ValueError("every route has weight 0; at least one must be positive")

    def draw(self, rng: np.random.Generator) -> str:
        """The route of one unit."""
        names = list(self.weights)
        cumulative = list(accumulate(self.weights.values()))
        return names[bisect_right(cumulative, rng.random() * cumulative[-1])]
