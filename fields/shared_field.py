"""Experts that are adapters over one base, with one copy of the base for all of them."""

import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fields.carriers import Condition, Query, Target
from fields.families.base import Family
from fields.lora import Adapter
from fields.operators import Operator
from fields.stacked_lora import BASE, RowsAreNoSamples, stack_adapters


@dataclass(frozen=True, slots=True)
class Member:
    """One of the experts: its adapter, or none for the base itself, and its operator."""

    adapter: Adapter | None
    operator: Operator


class SharedField:
    """The velocity fields of several experts.

    Samples of different experts are computed in one forward when they have the same operator and conditions of the same
    shapes. That is the separate experts' result up to the order of sums: 1e-5 of the velocity's norm in float32.

    Args:
        family: how the network is called.
        transformer: the base; the adapters are put into it and it is frozen.
        members: by expert name.
        device: where it computes.

    Raises:
        ValueError: if an adapter doesn't fit the network.
    """

    def __init__(self, family: Family, transformer: nn.Module, members: Mapping[str, Member], device: torch.device):
        adapted = {name: member.adapter for name, member in members.items() if member.adapter is not None}
        self.family = family
        self.device = device
        self._choice = stack_adapters(transformer, adapted)
        self._numbers = dict.fromkeys(members, BASE) | {name: k for k, name in enumerate(adapted)}
        self._operators = {name: member.operator for name, member in members.items()}
        self._turn = threading.Lock()
        self._rows_are_samples = True
        self.transformer = transformer.to(device).eval().requires_grad_(False)

    def velocity(
        self, expert: str, x_t: Float[Tensor, "batch ..."], t: Float[Tensor, " batch"], condition: Condition
    ) -> Tensor:
        """One expert's velocity, float32, on this field's device."""
        return self._velocity(torch.full((len(t),), self._numbers[expert]), self._operators[expert], x_t, t, condition)

    def answer(self, experts: Sequence[str], queries: Sequence[Query]) -> list[Target]:
        """What each query's expert says, in order.

        Raises:
            ValueError: if a velocity is not finite; names the expert, the samples and their t.
        """
        together: dict[Hashable, list[int]] = {}
        for n, (expert, query) in enumerate(zip(experts, queries, strict=True)):
            together.setdefault((self._operators[expert], _shapes(query)), []).append(n)
        velocities: dict[int, Tensor] = {}
        for numbers in together.values():
            found = self._mixed([experts[n] for n in numbers], [queries[n] for n in numbers])
            velocities |= dict(zip(numbers, found, strict=True))
        return [
            Target(sample_ids=query.sample_ids, expert=expert, t=query.t, velocity=velocities[n].cpu())
            for n, (expert, query) in enumerate(zip(experts, queries, strict=True))
        ]

    def _mixed(self, experts: list[str], queries: list[Query]) -> list[Tensor]:
        """The velocities of queries that fit into one batch; expert by expert where the network's rows are no samples."""
        if self._rows_are_samples:
            sizes = [len(query.t) for query in queries]
            adapters = torch.tensor([self._numbers[expert] for expert in experts]).repeat_interleave(torch.tensor(sizes))
            x_t, t = (torch.cat([getattr(query, part) for query in queries]) for part in ("x_t", "t"))
            condition = Condition.concatenate([query.condition for query in queries])
            try:
                return list(self._velocity(adapters, self._operators[experts[0]], x_t, t, condition).split(sizes))
            except RowsAreNoSamples:
                self._rows_are_samples = False  # a property of the network, found by its first mixed batch
        return [self.velocity(expert, q.x_t, q.t, q.condition) for expert, q in zip(experts, queries, strict=True)]

    @torch.no_grad()
    def _velocity(
        self, adapters: Int[Tensor, " batch"], operator: Operator, x_t: Tensor, t: Tensor, condition: Condition
    ) -> Tensor:
        adapters = adapters.to(self.device)

        def network(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            self._choice.choose(adapters.repeat(len(x_t) // len(adapters)))  # an operator's branches follow one another
            return self.family.velocity(self.transformer, x_t, t, condition)

        with self._turn:
            return operator.apply(network, x_t.to(self.device), t.to(self.device), condition.to(self.device))


def _shapes(query: Query) -> Hashable:
    """What must agree for queries to be one batch."""
    parts = (query.condition.tensors, query.condition.unconditional)
    return query.x_t.shape[1:], *(tuple(sorted((name, value.shape[1:]) for name, value in part.items())) for part in parts)
