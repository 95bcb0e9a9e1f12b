"""What a student learns at its states: from the expert of the route, from several, from an anchor, or from the data itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from fields.carriers import Example, Query, Target

Shares = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """Who teaches a route.

    Attributes:
        shares: route -> {expert: share}; one expert with share 1 is hard routing; empty teaches from the data.
        anchor: the expert to whose velocity the student is held, if any.
    """

    shares: Mapping[str, Shares]
    anchor: str | None = None

    def asked(self, route: str) -> tuple[str, ...]:
        """The experts that answer a query of a route, each once."""
        return tuple(dict.fromkeys((*self.shares[route], *([self.anchor] if self.anchor else []))))

    def example(self, query: Query, answers: Mapping[str, Target]) -> Example:
        """The query with its target, computed from the answers of the route's experts."""
        shares = self.shares[query.route]
        target = Target.mix([(answers[name], share) for name, share in shares.items()]) if shares else from_data(query)
        return Example(query=query, target=target, anchor=answers[self.anchor] if self.anchor else None)


def from_data(query: Query) -> Target:
    """The velocity of the straight path through the row's own target image: eps - x_0 = (x_t - x_0) / t.

    This is supervised flow matching, the baseline that the paper calls joint training.
    """
    clean = query.condition.clean
    assert clean is not None, "a target from data needs the rows' target images"
    t = query.t.reshape(-1, *[1] * (clean.ndim - 1))
    return Target(sample_ids=query.sample_ids, expert="data", t=query.t, velocity=(query.x_t - clean) / t)
