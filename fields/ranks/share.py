"""A rank's share of an optimizer step, and what it says about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from jaxtyping import Float
from torch import Tensor

from fields.carriers import Outline
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
        route: of its samples.
        sample_ids: of its rows.
        losses: float32, on the CPU.
        target_norms: root mean square of each target.
    """

    place: int
    route: str
    sample_ids: tuple[int, ...]
    losses: Float[Tensor, " batch"]
    target_norms: Float[Tensor, " batch"]
