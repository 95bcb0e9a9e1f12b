"""Experts that are adapters over one base, with one copy of the base for all of them."""

import threading
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fields.carriers import GIVEN, Condition, Query, Target, Variant, on_device
from fields.families.base import Family
from fields.lora.adapter import Adapter
from fields.lora.stacked import BASE, RowsAreNoSamples, stack_adapters
from fields.memory.cost import Pass
from fields.memory.rehearsal import rehearse_expression, rehearse_forward
from fields.method.plan import Group
from fields.method.solver import Velocity
from fields.method.states import RolloutSettings, queries, rolled_out
from fields.operators import Expression, evaluate
from fields.ranks.frozen import place_frozen
from fields.ranks.ranks import Alone, Ranks


@dataclass(frozen=True, slots=True)
class Member:
    """One of the experts.

    Attributes:
        expression: what is made of its networks' velocities; it calls them "0", "1", ...
        networks: the adapters (by name) that these numbers stand for.
    """

    expression: Expression
    networks: tuple[str, ...]


class SharedField:
    """The velocity fields of several experts.

    Samples of different experts are computed in one forward when their expressions are equal up to the adapters in them and
    their conditions have the same shapes. That is the separate experts' result up to the order of sums: 1e-5 of the
    velocity's norm in float32.

    Args:
        family: how the network is called.
        transformer: the base; the adapters are put into it and it is frozen.
        adapters: by name; None is the base itself.
        members: the experts, by name.
        device: where it computes.
        ranks: that hold the network together, connected; each has a field like this one, and all of them compute together.

    Raises:
        ValueError: if an adapter doesn't fit the network.
    """

    def __init__(
        self,
        family: Family,
        transformer: nn.Module,
        adapters: Mapping[str, Adapter | None],
        members: Mapping[str, Member],
        device: torch.device,
        ranks: Ranks | None = None,
    ):
        adapted = {name: adapter for name, adapter in adapters.items() if adapter is not None}
        self.family = family
        self.device = device
        self._choice = stack_adapters(transformer, adapted)
        self._numbers = dict.fromkeys(adapters, BASE) | {name: k for k, name in enumerate(adapted)}
        self._members = members
        self._turn = threading.Lock()
        self._rows_are_samples = True
        self.transformer = place_frozen(transformer, family.blocks(transformer), device, ranks or Alone())

    @property
    def networks(self) -> Iterable[nn.Module]:
        """The one network, adapters included."""
        return (self.transformer,)

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """Its repeated blocks."""
        return self.family.blocks(self.transformer)

    def velocity(
        self,
        expert: str,
        x_t: Float[Tensor, "batch ..."],
        t: Float[Tensor, " batch"],
        condition: Condition,
        variant: Variant = GIVEN,
    ) -> Float[Tensor, "batch ..."]:
        """One expert's velocity, float32, on this field's device."""
        return self._velocity([expert] * len(t), x_t, t, condition, variant)

    def rehearse(self, what: Pass) -> None:
        """Compute for every expert what an answer to such a query computes at once.

        Raises:
            DoesNotFit: if the device has no memory for it.
        """
        for member in self._members.values():

            def forward(network: str, at_once: Pass, networks: tuple[str, ...] = member.networks) -> None:
                adapter = self._numbers[networks[int(network)]]
                self._choice.choose(torch.full((at_once.samples,), adapter, device=self.device))
                rehearse_forward(self.family, self.transformer, at_once, self.device)

            with self._turn:
                rehearse_expression(member.expression, forward, what)

    def answer(self, experts: Sequence[str], asked: Sequence[tuple[Query, ...]]) -> list[tuple[Target, ...]]:
        """What each expert says to each query of its tuple, in order.

        Raises:
            ValueError: if a velocity is not finite; names the expert, the samples and their t.
        """
        flat = [(expert, query) for expert, own in zip(experts, asked, strict=True) for query in own]
        together: dict[Hashable, list[int]] = {}
        for n, (expert, query) in enumerate(flat):
            together.setdefault((self._members[expert].expression, _shapes(query)), []).append(n)
        targets: dict[int, Target] = {}
        for numbers in together.values():
            targets |= dict(zip(numbers, self._mixed([flat[n] for n in numbers]), strict=True))
        ordered = iter(targets[n] for n in range(len(flat)))
        return [tuple(next(ordered) for _ in own) for own in asked]

    def _mixed(self, pairs: list[tuple[str, Query]]) -> list[Target]:
        """The answers to queries that fit into one batch; expert by expert where a row of the network isn't one sample."""
        if self._rows_are_samples:
            try:
                return self._targets(pairs)
            except RowsAreNoSamples:
                self._rows_are_samples = False  # a property of the network, found by its first mixed batch
        return [target for pair in pairs for target in self._targets([pair])]

    def _targets(self, pairs: list[tuple[str, Query]]) -> list[Target]:
        sizes = [len(query.t) for _, query in pairs]
        rows = [expert for expert, query in pairs for _ in query.sample_ids]
        x_t, t = (torch.cat([getattr(query, part) for _, query in pairs]) for part in ("x_t", "t"))
        condition = Condition.concatenate([query.condition for _, query in pairs])
        given = self._velocity(rows, x_t, t, condition).cpu().split(sizes)
        empty: Sequence[Tensor | None] = [None] * len(pairs)
        if pairs[0][1].both_branches:
            empty = self._velocity(rows, x_t, t, condition, Variant(prompt="empty")).cpu().split(sizes)
        return [
            Target(sample_ids=query.sample_ids, expert=expert, t=query.t, velocity=velocity, unconditional=unconditional)
            for (expert, query), velocity, unconditional in zip(pairs, given, empty, strict=True)
        ]

    @torch.no_grad()
    def _velocity(
        self, experts: Sequence[str], x_t: Tensor, t: Tensor, condition: Condition, variant: Variant = GIVEN
    ) -> Tensor:
        """Row by row the velocity of that row's expert; their expressions are equal."""
        members = [self._members[expert] for expert in experts]
        networks = {
            str(place): self._network(torch.tensor([self._numbers[member.networks[place]] for member in members]))
            for place in range(len(members[0].networks))
        }
        at = on_device(x_t, self.device), on_device(t, self.device), condition.to(self.device)
        with self._turn:
            return evaluate(members[0].expression, networks, *at, variant)

    def _network(self, adapters: Int[Tensor, " batch"]) -> Velocity:
        def velocity(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            self._choice.choose(adapters.repeat(len(x_t) // len(adapters)).to(self.device))  # branches follow one another
            return self.family.velocity(self.transformer, x_t, t, condition)

        return velocity

    def queries(self, expert: str, group: Group, condition: Condition, settings: RolloutSettings) -> tuple[Query, ...]:
        """States of one expert's own rollout, for students that learn off-policy; their policy version is -1.

        Raises:
            ValueError: if a state is not finite; names the samples.
        """
        field, shape = partial(self.velocity, expert), self.family.latent_shape(group.size)
        states = rolled_out(field, (group,), condition.to(self.device), shape, settings)
        return queries(group, states, condition, settings, (-1, expert))


def _shapes(query: Query) -> Hashable:
    """What must agree for queries to be one batch."""
    condition = query.condition
    parts = (condition.tensors, condition.unconditional, condition.negative)
    shapes = (tuple(sorted((name, value.shape[1:]) for name, value in part.items())) for part in parts)
    return query.both_branches, query.x_t.shape[1:], condition.source_names, condition.clean is None, *shapes
