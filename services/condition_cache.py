"""Encoded conditions, found again by the content that they were made of."""

import dataclasses
import hashlib
from collections.abc import Hashable

from cachetools import LRUCache

from fields.carriers import Condition
from fields.data.rows import Row

# Every other field of a row may change its condition.
_NOT_ENCODED = ("uid", "task", "target_image", "target_frames", "scores")


class ConditionCache(LRUCache[bytes, Condition]):
    """Keeps conditions up to a number of bytes, least recently used out first; `currsize` is what is kept.

    Args:
        most_bytes: of the tensors that are kept; a larger condition is not kept at all.
    """

    def __init__(self, most_bytes: int):
        super().__init__(most_bytes, getsizeof=_size)

    def keep(self, key: bytes, condition: Condition) -> int:
        """Keep a condition that isn't there; returns how many others had to go."""
        if _size(condition) > self.maxsize:
            return 0
        before = len(self)
        self[key] = condition
        return before + 1 - len(self)


def content_key(row: Row, with_empty: bool) -> bytes:
    """A digest of all that a row's condition depends on, and of whether it has the empty prompt.

    Lengths are part of it, so that fields don't run into one another.
    """
    digest = hashlib.blake2b()
    for value in (with_empty, *_inputs(row)):
        content = value if isinstance(value, bytes) else str(value).encode()
        digest.update(f"{type(value).__name__} {len(content)}:".encode() + content)
    return digest.digest()


def batch_key(row: Row) -> Hashable:
    """What rows must have in common to be encoded together: which inputs they have, and their numbers (sizes)."""
    return tuple(value if isinstance(value, int) else value is None for value in _inputs(row))


def _inputs(row: Row) -> list[str | bytes | int | None]:
    inputs = list[str | bytes | int | None]()
    for field in dataclasses.fields(row):
        if field.name not in _NOT_ENCODED:
            value = getattr(row, field.name)
            inputs += [len(value), *value] if isinstance(value, tuple) else [value]
    return inputs


def _size(condition: Condition) -> int:
    return sum(
        tensor.nbytes for part in (condition.tensors, condition.unconditional, condition.negative) for tensor in part.values()
    )
