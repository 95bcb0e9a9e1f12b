"""What crosses process boundaries: Condition, Query, Target, Weights.

Each carries its sample ids or policy version and validates itself on construction, hence on receipt. Pickling sends
tensors as numpy views (bfloat16 and the other types numpy lacks as bytes), which Ray maps from shared memory without a
copy; unpickling copies them into fresh tensors. The copy has a reason: a mapped buffer is read-only and may be aligned
differently, which changes the last bits of a CPU kernel.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition(Carrier):
    """What a field is conditioned on, encoded: named tensors with one row a sample.

    Attributes:
        tensors: the family's own names, such as `words` and `source`; the first dimension is the batch.
        unconditional: the tensors that differ when the prompt is dropped; guidance evaluates both.
    """

    tensors: Tensors
    unconditional: Tensors

    def __post_init__(self) -> None:
        sizes = {tensor.shape[0] for tensor in (*self.tensors.values(), *self.unconditional.values())}
        if len(sizes) != 1:
            raise ValueError(f"condition tensors disagree on the batch: sizes {sorted(sizes)}")

    def __len__(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def select(self, rows: Tensor) -> "Condition":
        """The condition of some samples, by row number or mask."""
        return Condition(
            tensors={name: tensor[rows] for name, tensor in self.tensors.items()},
            unconditional={name: tensor[rows] for name, tensor in self.unconditional.items()},
        )

    def without_prompt(self) -> "Condition":
        """The same condition with the prompt dropped; a source image stays."""
        return Condition(tensors={**self.tensors, **self.unconditional}, unconditional=self.unconditional)

    def to(self, device: torch.device) -> "Condition":
        """The condition on a device."""
        return Condition(
            tensors={name: tensor.to(device) for name, tensor in self.tensors.items()},
            unconditional={name: tensor.to(device) for name, tensor in self.unconditional.items()},
        )

    @staticmethod
    def concatenate(conditions: "list[Condition]") -> "Condition":
        """The conditions of several batches as one batch.

        Sequences (the second dimension) of unequal length are padded with zeros at their ends: a family whose texts
        differ in length carries a mask, which is padded along with them.
        """
        first = conditions[0]
        return Condition(
            tensors={name: _join([c.tensors[name] for c in conditions]) for name in first.tensors},
            unconditional={name: _join([c.unconditional[name] for c in conditions]) for name in first.unconditional},
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
        condition: what every field sees beside the state.

    Raises:
        ValueError: when shapes disagree, t leaves [0, 1] or a state is not finite.
    """

    sample_ids: tuple[int, ...]
    route: str
    policy_version: int
    checksum: str
    x_t: Float[Tensor, "batch ..."]
    t: Float[Tensor, " batch"]
    condition: Condition

    def __post_init__(self) -> None:
        if not len(self.sample_ids) == len(self.x_t) == len(self.t) == len(self.condition):
            raise ValueError(
                f"query of {len(self.sample_ids)} samples has {len(self.x_t)} states, {len(self.t)} times "
                f"and {len(self.condition)} conditions"
            )
        if self.x_t.dtype != torch.float32:
            raise ValueError(f"query states are {self.x_t.dtype}; they must be float32")
        if not bool(((self.t >= 0) & (self.t <= 1)).all()):
            raise ValueError(f"query times leave [0, 1]: {self.t.tolist()}")
        require_finite(self.x_t, f"rollout with policy version {self.policy_version}", self.sample_ids, self.t)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(Carrier):
    """An expert's answer to a query: its velocity at the same states.

    Raises:
        ValueError: when shapes disagree or a velocity is not finite.
    """

    sample_ids: tuple[int, ...]
    expert: str
    t: Float[Tensor, " batch"]
    velocity: Float[Tensor, "batch ..."]

    def __post_init__(self) -> None:
        if not len(self.sample_ids) == len(self.velocity) == len(self.t):
            raise ValueError(f"target of {len(self.sample_ids)} samples has {len(self.velocity)} velocities")
        require_finite(self.velocity, f"expert {self.expert!r}", self.sample_ids, self.t)


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
