"""What a student learns at its states: from the expert of the route, from several, from an anchor, or from the data itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from fields.carriers import Example, Query, Target
from fields.method.plan import Group
from fields.method.scoring import Shares


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
        """The experts that answer a query of a route, where its rows don't decide it, each once."""
        return _each_once(self.shares[route], self.anchor)

    def lesson(self, group: Group) -> "Lesson":
        """Who teaches the samples of a group: as their rows decide, or else as the route is taught."""
        shares = [dict(sample.shares) or self.shares[group.route] for sample in group.samples]
        return Lesson(shares={name: tuple(own[name] for own in shares) for name in shares[0]}, anchor=self.anchor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Who teaches a group.

    Attributes:
        shares: expert -> the factors of its velocity in the samples' targets, in their order; empty teaches from the data.
        anchor: the expert to whose velocity the student is held, if any.
    """

    shares: Mapping[str, tuple[float, ...]]
    anchor: str | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """The experts that answer the group's queries, each once."""
        return _each_once(self.shares, self.anchor)

    def example(self, query: Query, answers: Mapping[str, Target]) -> Example:
        """A query of the group with its target, computed from the experts' answers."""
        parts = [(answers[name], torch.tensor(factors)) for name, factors in self.shares.items()]
        target = Target.combine(parts) if parts else from_data(query)
        return Example(query=query, target=target, anchor=answers[self.anchor] if self.anchor else None)


def _each_once(experts: Iterable[str], anchor: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*experts, *([anchor] if anchor else []))))


def from_data(query: Query) -> Target:
    """The velocity of the straight path through the row's own target image: eps - x_0 = (x_t - x_0) / t.

    This is supervised flow matching, the baseline that the paper calls joint training.
    """
    clean = query.condition.clean
    assert clean is not None, "a target from data needs the rows' target images"
    t = query.t.reshape(-1, *[1] * (clean.ndim - 1))
    return Target(sample_ids=query.sample_ids, expert="data", t=query.t, velocity=(query.x_t - clean) / t)
