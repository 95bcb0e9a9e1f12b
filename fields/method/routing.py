"""Which route a sample takes. A route has its own rows; who answers them, `teaching.py` and `scoring.py` say."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np

Granularity = Literal["sample", "microbatch", "step"]


def check_weights(weights: Mapping[str, float]) -> None:
    """Refuse weights that are no weights.

    Raises:
        ValueError: for one that is negative or not finite, if none is positive, or if a share of their sum could not be
            told from the sum itself.
    """
    for route, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"route {route!r} has weight {weight}; a weight is finite and not negative")
    total = sum(weights.values())
    if total <= 0:
        raise ValueError("every route has weight 0; at least one must be positive")
    if not 1e-300 < total < 1e300:
        raise ValueError(f"the weights of the routes sum to {total:g}; allowed: 1e-300 to 1e300")


def route_at(weights: Mapping[str, float], share: float) -> str:
    """The route at a share in [0, 1) of the total weight, the routes laid side by side in their order.

    >>> [route_at({"a": 1.0, "b": 3.0}, share) for share in (0.0, 0.24, 0.25, 0.99)]
    ['a', 'a', 'b', 'b']
    """
    cumulative = list(accumulate(weights.values()))
    return list(weights)[bisect_right(cumulative, share * cumulative[-1])]


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
        check_weights(self.weights)

    def unit(self, n: int, group_size: int, batch_size: int) -> int:
        """The number of the draw that decides sample `n`."""
        return {"sample": n, "microbatch": n // group_size, "step": n // batch_size}[self.granularity]

    def route(self, n: int, batch_size: int, rng: np.random.Generator) -> str:
        """The route of sample `n`; `rng` belongs to its unit."""
        return route_at(self.weights, rng.random())


@dataclass(frozen=True, slots=True)
class GroupedRouting:
    """Every route in every optimizer step, in proportion to its weight: nothing is drawn.

    DiffusionOPD (arXiv 2605.15055) accumulates one group of each task.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        check_weights(self.weights)

    def unit(self, n: int, group_size: int, batch_size: int) -> int:
        """The number of the sample itself."""
        return n

    def route(self, n: int, batch_size: int, rng: np.random.Generator) -> str:
        """The route at the sample's place in its step."""
        return self._at_place(n % batch_size, batch_size)

    def absent(self, batch_size: int) -> list[str]:
        """The routes of positive weight that a step of so many samples has no room for.

        >>> GroupedRouting({"a": 1.0, "b": 9.0}).absent(4)
        ['a']
        """
        present = {self._at_place(place, batch_size) for place in range(batch_size)}
        return [route for route, weight in self.weights.items() if weight > 0 and route not in present]

    def _at_place(self, place: int, batch_size: int) -> str:
        return route_at(self.weights, (place + 0.5) / batch_size)


@dataclass(frozen=True, slots=True)
class ChangingRouting:
    """Other weights from given optimizer steps on. What is drawn before a change is what would be drawn without it.

    Attributes:
        stages: first step -> the routing from there on, ascending from step 0; all of them name the same routes.
    """

    stages: Mapping[int, HardRouting | GroupedRouting]

    def __post_init__(self) -> None:
        if list(self.stages) != sorted(self.stages) or next(iter(self.stages), None) != 0:
            raise ValueError(f"stages start at the steps {list(self.stages)}; they must ascend from 0")

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights at the start."""
        return self.stages[0].weights

    def unit(self, n: int, group_size: int, batch_size: int) -> int:
        """The number of the draw that decides sample `n`."""
        return self._at(n // batch_size).unit(n, group_size, batch_size)

    def route(self, n: int, batch_size: int, rng: np.random.Generator) -> str:
        """The route of sample `n`; `rng` belongs to its unit."""
        return self._at(n // batch_size).route(n, batch_size, rng)

    def _at(self, step: int) -> HardRouting | GroupedRouting:
        return self.stages[max(first for first in self.stages if first <= step)]


Routing = HardRouting | GroupedRouting | ChangingRouting
