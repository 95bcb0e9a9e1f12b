"""Encoded conditions, found again by the content that they were made of."""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Hashable

from fields.carriers import Condition
from fields.data.rows import Row

_NOT_ENCODED = ("uid", "task", "target_image")  # every other field of a row may change its condition


class ConditionCache:
    """Keeps conditions up to a number of bytes, least recently used out first.

    Args:
        most_bytes: of the tensors that are kept; a larger condition is not kept at all.
    """

    def __init__(self, most_bytes: int):
        self._most_bytes = most_bytes
        self._conditions: OrderedDict[bytes, Condition] = OrderedDict()
        self.nbytes = 0

    def get(self, key: bytes) -> Condition | None:
        """The condition kept under a key, which becomes the most recently used."""
        if key in self._conditions:
            self._conditions.move_to_end(key)
        return self._conditions.get(key)

    def put(self, key: bytes, condition: Condition) -> int:
        """Keep a condition that isn't there; returns how many others had to go."""
        size = _size(condition)
        if size > self._most_bytes:
            return 0
        self._conditions[key] = condition
        self.nbytes += size
        dropped = 0
        while self.nbytes > self._most_bytes:
            self.nbytes -= _size(self._conditions.popitem(last=False)[1])
            dropped += 1
        return dropped


def content_key(row: Row) -> bytes:
    """A digest of all that a row's condition depends on; lengths are part of it, so that fields don't run into one another."""
    digest = hashlib.blake2b()
    for value in _inputs(row):
        content = value if isinstance(value, bytes) else str(value).encode()
        digest.update(f"{type(value).__name__} {len(content)}:".encode() + content)
    return digest.digest()


def kind(row: Row) -> Hashable:
    """What rows must have in common to be encoded together: which inputs they have, and their numbers (sizes)."""
    return tuple(value if isinstance(value, int) else value is None for value in _inputs(row))


def _inputs(row: Row) -> list[str | bytes | int | None]:
    return [getattr(row, field.name) for field in dataclasses.fields(row) if field.name not in _NOT_ENCODED]


def _size(condition: Condition) -> int:
    return sum(
        tensor.nbytes for part in (condition.tensors, condition.unconditional, condition.negative) for tensor in part.values()
    )
