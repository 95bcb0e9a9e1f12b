"""What crosses process boundaries: Condition, Query, Target, Example, Weights.

Each carries its sample ids or policy version and validates itself on construction, hence on receipt. Pickling sends
tensors as numpy views (bfloat16 and the other types numpy lacks as bytes), which Ray maps from shared memory without a
copy; unpickling copies them into fresh tensors. The copy has a reason: a mapped buffer is read-only and may be aligned
differently, which changes the last bits of a CPU kernel.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Tensors = Mapping[str, Tensor]


class Carrier:
    """Base of the carriers: pickled field by field, tensors as numpy arrays."""

    __slots__ = ()

    def __reduce__(self):
        packed = {field.name: _pack(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return _rebuild, (type(self), packed)


@dataclass(frozen=True, slots=True)
class _Packed:
    bytes: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]


def _pack(value: Any) -> Any:
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        return _Packed(data.reshape(-1).view(torch.uint8).numpy(), data.dtype, tuple(data.shape))
    if isinstance(value, Mapping):
        return {key: _pack(item) for key, item in value.items()}
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, _Packed):
        if value.bytes.size == 0:
            return torch.empty(value.shape, dtype=value.dtype)
        return torch.from_numpy(value.bytes.copy()).view(value.dtype).reshape(value.shape)
    if isinstance(value, Mapping):
        return {key: _unpack(item) for key, item in value.items()}
    return value


def _rebuild(cls: type, packed: dict[str, Any]) -> Any:
    return cls(**{name: _unpack(value) for name, value in packed.items()})


@dataclass(frozen=True, slots=True)
class Variant:
    """Which of a condition's parts a branch of an operator sees.

    `told` is the guidance scale that a guidance-distilled network is told, instead of the condition's own.
    """

    prompt: Literal["given", "empty", "negative"] = "given"
    source: bool = True
    told: float | None = None


GIVEN = Variant()
TOLD = "guidance"  # the condition's tensor (batch,) of what a guidance-distilled network is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition(Carrier):
    """What a field is conditioned on, encoded: named tensors with one row a sample.

    Attributes:
        tensors: the family's own names, such as `words` and `source`; the first dimension is the batch.
        unconditional: the tensors that differ when the prompt is dropped; guidance evaluates both.
        negative: the tensors that differ under the row's negative prompt; empty if rows have none.
        source_names: which of the tensors hold the source image.
        clean: the row's target image as a clean state x_0 (batch, ...), for states or targets from data; fields don't see it.
    """

    tensors: Tensors
    unconditional: Tensors
    negative: Tensors = dataclasses.field(default_factory=dict)
    source_names: tuple[str, ...] = ()
    clean: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = {tensor.shape[0] for tensor in (*self.tensors.values(), *self.unconditional.values(), *self.negative.values())}
        if self.clean is not None:
            sizes.add(len(self.clean))
        if len(sizes) != 1:
            raise ValueError(f"condition tensors disagree on the batch: sizes {sorted(sizes)}")

    def __len__(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        return Condition(
            tensors={name: change(tensor) for name, tensor in self.tensors.items()},
            unconditional={name: change(tensor) for name, tensor in self.unconditional.items()},
            negative={name: change(tensor) for name, tensor in self.negative.items()},
            source_names=self.source_names,
            clean=None if self.clean is None else change(self.clean),
        )

    def select(self, rows: Tensor) -> "Condition":
        """The condition of some samples, by row number or mask."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> "Condition":
        """The condition on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def variant(self, variant: Variant) -> "Condition":
        """What a branch of an operator sees: these tensors alone.

        Raises:
            ValueError: for the negative prompt or the absent source image of rows that have none.
        """
        changed = {"given": {}, "empty": self.unconditional, "negative": self.negative}[variant.prompt]
        if variant.prompt == "negative" and not changed:
            raise ValueError("an operator wants the negative prompt; the rows have no negative_prompt")
        if not variant.source and not self.source_names:
            raise ValueError("an operator drops the source image; the rows have no source_image")
        seen = {**self.tensors, **changed}
        if not variant.source:
            seen = {name: tensor for name, tensor in seen.items() if name not in self.source_names}
        if variant.told is not None:
            seen[TOLD] = torch.full_like(seen[TOLD], variant.told)
        return Condition(tensors=seen, unconditional={})

    @staticmethod
    def concatenate(conditions: "Sequence[Condition]") -> "Condition":
        """The conditions of several batches as one batch.

        Sequences (the second dimension) of unequal length are padded with zeros at their ends: a family whose texts
        differ in length carries a mask, which is padded along with them.
        """
        first = conditions[0]
        clean = [c.clean for c in conditions if c.clean is not None]
        return Condition(
            tensors={name: _join([c.tensors[name] for c in conditions]) for name in first.tensors},
            unconditional={name: _join([c.unconditional[name] for c in conditions]) for name in first.unconditional},
            negative={name: _join([c.negative[name] for c in conditions]) for name in first.negative},
            source_names=first.source_names,
            clean=torch.cat(clean) if clean else None,
        )


def _join(tensors: list[Tensor]) -> Tensor:
    """The tensors one after the other along the batch, padded along the second dimension."""
    if tensors[0].ndim < 2:
        return torch.cat(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    rest = [tensor.new_zeros(len(tensor), longest - tensor.shape[1], *tensor.shape[2:]) for tensor in tensors]
    return torch.cat([torch.cat(pair, dim=1) for pair in zip(tensors, rest, strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Query(Carrier):
    """States of the student's own rollout, at which one expert is asked.

    Attributes:
        sample_ids: who the rows are.
        route: the route of all rows.
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
    route: str
    policy_version: int
    checksum: str
    x_t: Float[Tensor, "batch ..."]
    t: Float[Tensor, " batch"]
    t_next: Float[Tensor, " batch"]
    condition: Condition
    both_branches: bool = False

    def __post_init__(self) -> None:
        if not len(self.sample_ids) == len(self.x_t) == len(self.t) == len(self.t_next) == len(self.condition):
            raise ValueError(
                f"query of {len(self.sample_ids)} samples has {len(self.x_t)} states, {len(self.t)} times "
                f"and {len(self.condition)} conditions"
            )
        if self.x_t.dtype != torch.float32:
            raise ValueError(f"query states are {self.x_t.dtype}; they must be float32")
        if not bool(((self.t >= 0) & (self.t <= 1)).all()):
            raise ValueError(f"query times leave [0, 1]: {self.t.tolist()}")
        if not bool(((self.t_next >= 0) & (self.t_next < self.t)).all()):
            raise ValueError(f"query steps don't go towards 0: from {self.t.tolist()} to {self.t_next.tolist()}")
        require_finite(self.x_t, f"rollout with policy version {self.policy_version}", self.sample_ids, self.t)


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
        if not len(self.sample_ids) == len(self.velocity) == len(self.t):
            raise ValueError(f"target of {len(self.sample_ids)} samples has {len(self.velocity)} velocities")
        for velocity in (self.velocity, self.unconditional):
            if velocity is not None:
                require_finite(velocity, f"expert {self.expert!r}", self.sample_ids, self.t)

    def to(self, device: torch.device) -> "Target":
        """The target with its velocities on a device."""
        unconditional = None if self.unconditional is None else self.unconditional.to(device)
        return dataclasses.replace(self, velocity=self.velocity.to(device), unconditional=unconditional)

    @staticmethod
    def mix(targets: "Sequence[tuple[Target, float]]") -> "Target":
        """The convex combination of several experts' answers to one query, float32."""
        first, _ = targets[0]
        unconditional = [(target.unconditional, weight) for target, weight in targets if target.unconditional is not None]
        return Target(
            sample_ids=first.sample_ids,
            expert=" + ".join(target.expert for target, _ in targets),
            t=first.t,
            velocity=_weighted_sum([(target.velocity, weight) for target, weight in targets]),
            unconditional=_weighted_sum(unconditional) if unconditional else None,
        )


def _weighted_sum(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    (first, weight), *rest = parts
    total = weight * first
    for tensor, weight in rest:
        total = total + weight * tensor
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Carrier):
    """What the learner learns from: a query, its target, and the answer of the anchor, if the student has one."""

    query: Query
    target: Target
    anchor: Target | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights(Carrier):
    """The student's trainable tensors at one policy version, with their SHA-256."""

    policy_version: int
    checksum: str
    tensors: Tensors

    @staticmethod
    def of(policy_version: int, tensors: Tensors) -> "Weights":
        """A copy of the tensors as they are now."""
        copied = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        return Weights(policy_version=policy_version, checksum=checksum(copied), tensors=copied)

    def __post_init__(self) -> None:
        if (actual := checksum(self.tensors)) != self.checksum:
            raise ValueError(f"weights of policy version {self.policy_version} are damaged: {actual} is not {self.checksum}")


def checksum(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_finite(values: Tensor, source: str, sample_ids: tuple[int, ...], t: Tensor) -> None:
    """Raise ValueError that names the source, the sample ids and their t when a row is not finite."""
    finite = values.flatten(1).isfinite().all(dim=1)
    if not bool(finite.all()):
        bad = [(sample_ids[i], round(float(t[i]), 4)) for i in (~finite).nonzero().flatten().tolist()]
        listed = ", ".join(f"sample {sample_id} at t = {at}" for sample_id, at in bad)
        raise ValueError(f"{source} gave a value that is not finite: {listed}")
