"""Carriers on their way between two processes that compute with them, past one that only says where they go."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from fields.carriers.example import Query

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sealed(Generic[T]):
    """What was pickled, with its tensors' bytes beside it: Ray maps these from shared memory, and whoever passes the value on
    neither copies nor checks it. `open` does both, as unpickling does.

    Attributes:
        pickled: all but the tensors' bytes.
        buffers: of the tensors, in the order of the pickle.
    """

    pickled: bytes
    buffers: tuple[np.ndarray, ...]

    @staticmethod
    def of(value: T) -> "Sealed[T]":
        """Seal a value, whose tensors may still share their bytes with it."""
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        return Sealed(pickled, tuple(np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers))

    def open(self) -> T:
        """The value, in tensors of its own; raises as its carriers do when they are built."""
        value: Any = pickle.loads(self.pickled, buffers=self.buffers)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What is to be known of a query to say where it goes.

    Attributes:
        sample_ids: who the rows are.
        policy_version: of the weights that rolled out; `checksum` is theirs.
        values: how many numbers its states have.
    """

    sample_ids: tuple[int, ...]
    policy_version: int
    checksum: str
    values: int

    @staticmethod
    def of(query: Query) -> "Outline":
        """The outline of a query."""
        return Outline(
            sample_ids=query.sample_ids,
            policy_version=query.policy_version,
            checksum=query.checksum,
            values=query.x_t.numel(),
        )

    @staticmethod
    def joined(outlines: "Sequence[Outline]") -> "Outline":
        """The outline of joined queries."""
        sample_ids = tuple(sample_id for outline in outlines for sample_id in outline.sample_ids)
        return replace(outlines[0], sample_ids=sample_ids, values=sum(outline.values for outline in outlines))


@dataclass(frozen=True, slots=True)
class SealedQueries:
    """The queries of a group, one per query point of its samples.

    Attributes:
        outlines: of each.
        sealed: they themselves.
    """

    outlines: tuple[Outline, ...]
    sealed: Sealed[tuple[Query, ...]]

    @staticmethod
    def of(queries: tuple[Query, ...]) -> "SealedQueries":
        """Seal queries."""
        return SealedQueries(tuple(map(Outline.of, queries)), Sealed.of(queries))
