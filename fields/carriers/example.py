"""What the student learns from: states of a rollout, what an expert says there, and both together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fields.carriers.carrier import Carrier
from fields.carriers.condition import Condition
from fields.carriers.transfer import on_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Query(Carrier):
    """States of the student's own rollout, at which an expert is asked.

    Attributes:
        sample_ids: who the rows are.
        routes: of each row; all are alike, unless queries were joined to learn from them together.
        policy_version: of the weights that rolled out; `checksum` is theirs.
        x_t: float32 states.
        t: float32 (batch,), in [0, 1].
        t_next: float32 (batch,), where the rollout would go from here; t_next < t.
        condition: what every field sees beside the state.
        both_branches: whether the velocity without the prompt is wanted too.

    Raises:
        ValueError: when shapes disagree, times leave [0, 1] or a state is not finite.
    """

    sample_ids: tuple[int, ...]
    routes: tuple[str, ...]
    policy_version: int
    checksum: str
    x_t: Float[Tensor, "batch ..."]
    t: Float[Tensor, " batch"]
    t_next: Float[Tensor, " batch"]
    condition: Condition
    both_branches: bool = False

    def __post_init__(self) -> None:
        if self.x_t.device.type != "cpu":
            return  # it was checked on the host, and the checks would wait for the device
        samples = len(self.sample_ids)
        if not samples == len(self.routes) == len(self.x_t) == len(self.t) == len(self.t_next) == len(self.condition):
            raise ValueError(
                f"query of {samples} samples has {len(self.routes)} routes, {len(self.x_t)} states, {len(self.t)} times "
                f"and {len(self.condition)} conditions"
            )
        if self.x_t.dtype != torch.float32:
            raise ValueError(f"query states are {self.x_t.dtype}; they must be float32")
        if not bool(((self.t >= 0) & (self.t <= 1)).all()):
            raise ValueError(f"query times leave [0, 1]: {self.t.tolist()}")
        if not bool(((self.t_next >= 0) & (self.t_next < self.t)).all()):
            raise ValueError(f"query steps don't go towards 0: from {self.t.tolist()} to {self.t_next.tolist()}")
        _require_finite(self.x_t, f"rollout with policy version {self.policy_version}", self.sample_ids, self.t)

    def rows(self, rows: range) -> "Query":
        """The query of some of its samples."""
        return replace(
            self,
            sample_ids=self.sample_ids[rows.start : rows.stop],
            routes=self.routes[rows.start : rows.stop],
            x_t=self.x_t[rows.start : rows.stop],
            t=self.t[rows.start : rows.stop],
            t_next=self.t_next[rows.start : rows.stop],
            condition=self.condition.rows(rows),
        )

    def with_others(self, others: Mapping[str, Condition]) -> "Query":
        """The query with these conditions of other models, and no more."""
        return replace(self, condition=self.condition.with_others(others))

    def to(self, device: torch.device) -> "Query":
        """The query with all its tensors on a device."""
        x_t, t, t_next = (on_device(tensor, device) for tensor in (self.x_t, self.t, self.t_next))
        return replace(self, x_t=x_t, t=t, t_next=t_next, condition=self.condition.to(device))

    @staticmethod
    def joined(queries: "Sequence[Query]") -> "Query":
        """The queries of a batch's groups as one, with what the student reads."""
        first = queries[0]
        return replace(
            first,
            sample_ids=tuple(sample_id for query in queries for sample_id in query.sample_ids),
            routes=tuple(route for query in queries for route in query.routes),
            x_t=torch.cat([query.x_t for query in queries]),
            t=torch.cat([query.t for query in queries]),
            t_next=torch.cat([query.t_next for query in queries]),
            condition=Condition.joined([query.condition for query in queries], first.both_branches),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(Carrier):
    """An expert's answer to a query: its velocity at the same states.

    Attributes:
        unconditional: its velocity without the prompt, where the query wanted both.

    Raises:
        ValueError: when shapes disagree or a velocity is not finite.
    """

    sample_ids: tuple[int, ...]
    expert: str
    t: Float[Tensor, " batch"]
    velocity: Float[Tensor, "batch ..."]
    unconditional: Float[Tensor, "batch ..."] | None = None

    def __post_init__(self) -> None:
        if self.velocity.device.type != "cpu":
            return  # as of a query
        if not len(self.sample_ids) == len(self.velocity) == len(self.t):
            raise ValueError(f"target of {len(self.sample_ids)} samples has {len(self.velocity)} velocities")
        for velocity in (self.velocity, self.unconditional):
            if velocity is not None:
                _require_finite(velocity, f"expert {self.expert!r}", self.sample_ids, self.t)

    def rows(self, rows: range) -> "Target":
        """The answers for some of the samples."""
        return replace(
            self,
            sample_ids=self.sample_ids[rows.start : rows.stop],
            t=self.t[rows.start : rows.stop],
            velocity=self.velocity[rows.start : rows.stop],
            unconditional=None if self.unconditional is None else self.unconditional[rows.start : rows.stop],
        )

    def to(self, device: torch.device) -> "Target":
        """The target with its velocities on a device."""
        unconditional = None if self.unconditional is None else on_device(self.unconditional, device)
        return replace(self, velocity=on_device(self.velocity, device), unconditional=unconditional)

    @staticmethod
    def joined(targets: "Sequence[Target]") -> "Target":
        """The answers to a batch's groups as one."""
        unconditional = [target.unconditional for target in targets if target.unconditional is not None]
        return Target(
            sample_ids=tuple(sample_id for target in targets for sample_id in target.sample_ids),
            expert=", ".join(dict.fromkeys(target.expert for target in targets)),
            t=torch.cat([target.t for target in targets]),
            velocity=torch.cat([target.velocity for target in targets]),
            unconditional=torch.cat(unconditional) if unconditional else None,
        )

    @staticmethod
    def combine(targets: "Sequence[tuple[Target, Float[Tensor, ' batch']]]") -> "Target":
        """The sum of several experts' answers to one query, each sample's times its factor, float32."""
        first, _ = targets[0]
        unconditional = [(target.unconditional, factor) for target, factor in targets if target.unconditional is not None]
        return Target(
            sample_ids=first.sample_ids,
            expert=" + ".join(target.expert for target, _ in targets),
            t=first.t,
            velocity=_weighted_sum([(target.velocity, factor) for target, factor in targets]),
            unconditional=_weighted_sum(unconditional) if unconditional else None,
        )


def _weighted_sum(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    (first, *rest) = (tensor * factor.reshape(-1, *[1] * (tensor.ndim - 1)) for tensor, factor in parts)
    total = first
    for part in rest:
        total = total + part
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Carrier):
    """What the learner learns from: a query, its target, and the answer of the anchor, if the student has one.

    Raises:
        ValueError: if they are of different samples.
    """

    query: Query
    target: Target
    anchor: Target | None = None

    def __post_init__(self) -> None:
        asked = self.query.sample_ids
        for answer in (self.target, self.anchor):
            if answer is not None and answer.sample_ids != asked:
                raise ValueError(f"expert {answer.expert!r} answered {answer.sample_ids}, asked were {asked}")

    @staticmethod
    def joined(examples: "Sequence[Example]") -> "Example":
        """The examples of a batch's groups as one; that of a single group is left as it is."""
        if len(examples) == 1:
            return examples[0]
        anchors = [example.anchor for example in examples if example.anchor is not None]
        return Example(
            query=Query.joined([example.query for example in examples]),
            target=Target.joined([example.target for example in examples]),
            anchor=Target.joined(anchors) if anchors else None,
        )

    def split(self, most: int | None) -> "list[Example]":
        """The example in parts of at most so many samples, in order; None leaves it whole."""
        samples = len(self.query.sample_ids)
        if most is None or samples <= most:
            return [self]
        parts = [range(first, min(first + most, samples)) for first in range(0, samples, most)]
        anchors = [None if self.anchor is None else self.anchor.rows(part) for part in parts]
        return [
            Example(query=self.query.rows(part), target=self.target.rows(part), anchor=anchor)
            for part, anchor in zip(parts, anchors, strict=True)
        ]

    def to(self, device: torch.device) -> "Example":
        """The example with all its tensors on a device."""
        anchor = None if self.anchor is None else self.anchor.to(device)
        return Example(query=self.query.to(device), target=self.target.to(device), anchor=anchor)


def _require_finite(values: Tensor, source: str, sample_ids: tuple[int, ...], t: Tensor) -> None:
    """Raise ValueError that names the source, the sample ids and their t when a row is not finite."""
    finite = values.flatten(1).isfinite().all(dim=1)
    if not bool(finite.all()):
        bad = [(sample_ids[i], round(float(t[i]), 4)) for i in (~finite).nonzero().flatten().tolist()]
        samples = ", ".join(f"sample {sample_id} at t = {at}" for sample_id, at in bad)
        raise ValueError(f"{source} gave a value that is not finite: {samples}")
