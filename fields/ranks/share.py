"""A rank's share of an optimizer step, and what it says about it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from fields.carriers import Example, Outline
from fields.method.objective import Reduction
from fields.ranks.dealing import deal


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one rank computes of a step, and what it has to know of the rest.

    Attributes:
        places: of this rank's examples among the step's, which are in the plan's order.
        sizes: the samples of each of the step's examples, by place.
        ranks: who computes each of them, by place.
        divisor: of the sum of all losses of the step.
    """

    places: tuple[int, ...]
    sizes: tuple[int, ...]
    ranks: tuple[int, ...]
    divisor: int

    @staticmethod
    def all(queries: Sequence[Outline], ranks: int, over_queries: Reduction) -> "list[Share]":
        """The shares of a step, by rank: examples are dealt whole, by the values of their states.

        Args:
            queries: of the step's examples, in the plan's order.
            ranks: how many there are.
            over_queries: whether a sample's loss is the mean or the sum over its queries.
        """
        sizes = tuple(len(query.sample_ids) for query in queries)
        dealt = deal([query.values for query in queries], ranks)
        samples = len({sample_id for query in queries for sample_id in query.sample_ids})
        return [
            Share(
                places=tuple(place for place, owner in enumerate(dealt) if owner == rank),
                sizes=sizes,
                ranks=dealt,
                divisor=samples if over_queries == "sum" else sum(sizes),
            )
            for rank in range(ranks)
        ]

    @property
    def rows(self) -> int:
        """Queries in the step: a sample may have several."""
        return sum(self.sizes)

    def micro_batches(self, most: int | None) -> list[int]:
        """Who computes each micro-batch of the step, in the plan's order.

        Args:
            most: samples of a micro-batch; None is whole examples.
        """
        counts = (ceil(size / (most or size)) for size in self.sizes)
        return [rank for rank, count in zip(self.ranks, counts, strict=True) for _ in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a rank says of one example after its update.

    Attributes:
        place: of the example in the step.
        routes: of each of its samples.
        expert: that answered them.
        sample_ids: of its rows.
        t: of its states.
        losses: float32; on the device that computed them, until the step's end.
        target_norms: root mean square of each target.
    """

    place: int
    routes: tuple[str, ...]
    expert: str
    sample_ids: tuple[int, ...]
    t: Float[Tensor, " batch"]
    losses: Float[Tensor, " batch"]
    target_norms: Float[Tensor, " batch"]

    @staticmethod
    def of(place: int, example: Example, losses: Float[Tensor, " batch"]) -> "Learned":
        """What is to be said of an example on the host, with its losses."""
        query, target = example.query, example.target
        return Learned(
            place=place,
            routes=query.routes,
            expert=target.expert,
            sample_ids=query.sample_ids,
            t=query.t,
            losses=losses,
            target_norms=target.velocity.flatten(1).square().mean(dim=1).sqrt(),
        )

    def on_host(self) -> "Learned":
        """The same, on its way to another process."""
        return replace(self, losses=self.losses.cpu())


def require_finite(learned: Sequence[Learned]) -> None:
    """Wait for all losses of a rank.

    Raises:
        FloatingPointError: if one is not finite; names the samples.
    """
    if not learned or bool(torch.cat([one.losses for one in learned]).isfinite().all()):
        return
    for one in learned:
        bad = (~one.losses.isfinite()).nonzero().flatten().tolist()
        if bad:
            ids, t = tuple(one.sample_ids[row] for row in bad), one.t[bad].tolist()
            routes = ", ".join(dict.fromkeys(one.routes[row] for row in bad))
            raise FloatingPointError(f"loss is not finite: {routes}, answered by {one.expert}, samples {ids}, t {t}")
