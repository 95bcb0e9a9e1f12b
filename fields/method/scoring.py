"""Rows that need several skills: a row's scores over the routes decide whose velocity its sample learns from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fields.method.routing import route_at

Answer = Literal["drawn", "mixed", "composed"]
Shares = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """From a row's scores to the experts that answer its sample, with the factors of their velocities, which sum to 1.

    Attributes:
        experts: route -> the expert that answers it.
        answer: `drawn` is one expert, with the probability of its route. `mixed` is the velocities' mean under the scores.
            `composed` is v_u + sum_i w_i (v_i - v_u) with w_i = the score of expert i's routes / the highest (Liu et al., arXiv
            2206.01714): a row of one skill gets its expert's velocity, and one of two equal skills the whole effect of both.
        unconditional: the expert whose velocity is v_u; needed for `composed` alone.
    """

    experts: Mapping[str, str]
    answer: Answer
    unconditional: str | None = None

    def __post_init__(self) -> None:
        if (self.answer == "composed") != (self.unconditional is not None):
            raise ValueError(f"unconditional: {self.unconditional}; it is wanted with answer: composed, and with no other")

    def shares(self, route: str, scores: Mapping[str, float] | None, rng: np.random.Generator) -> Shares:
        """Expert -> the factor of its velocity; none of them is 0.

        Args:
            route: whose row it is. A row without scores belongs to it alone.
            scores: route -> score, in [0, 1].
            rng: of the sample; only `drawn` draws from it.
        """
        scores = scores or {route: 1.0}
        if self.answer == "drawn":
            return {self.experts[route_at(scores, rng.random())]: 1.0}
        weights = self.by_expert(scores)
        if self.answer == "mixed":
            total = sum(weights.values())
            return {expert: weight / total for expert, weight in weights.items()}
        assert self.unconditional is not None
        highest = max(weights.values())
        factors = {expert: weight / highest for expert, weight in weights.items()}
        factors[self.unconditional] = factors.get(self.unconditional, 0.0) + 1 - sum(factors.values())
        return {expert: factor for expert, factor in factors.items() if factor != 0}

    def by_expert(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Expert -> the sum of the scores of its routes, where it is not 0."""
        weights = dict[str, float]()
        for route, score in scores.items():
            if score > 0:
                weights[self.experts[route]] = weights.get(self.experts[route], 0.0) + score
        return weights
