"""The condition encoder as a Serve application: text encoders and the VAE live here, once, behind a cache."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np
import torch
from ray import serve
from ray.serve import Application
from ray.util.metrics import Counter, Gauge
from torch import Tensor

from fields.carriers import Condition
from fields.data.rows import Row
from fields.families.base import Family
from fields.numerics import Numerics
from services.applications import Identity
from services.condition_cache import ConditionCache, batch_key, content_key
from services.replica import Replica
from services.resources import Resources


class EncoderService(Replica):
    """Encodes rows into conditions, one call at a time.

    A row's condition doesn't depend on its neighbours or on what the cache held: rows are encoded one by one, unless the
    family says that encoding them together gives the same to the last bit.

    Args:
        build_family: makes the family with its encoders, once a replica.
        cache_bytes: of the encoded rows that are kept, least recently used out first.
        numerics: how it computes; the same in every process of a run.
        run: name of the run, or of the standing services, for the metrics.
        identity: what decides the answers, for whoever thinks of sharing this service.
    """

    def __init__(self, build_family: Callable[[], Family], cache_bytes: int, numerics: Numerics, run: str, identity: Identity):
        super().__init__(numerics, identity)
        self._family = build_family()
        self._family.load_encoders()  # here and not in a call: calls have a time limit, and loading may be a download
        self._cache = ConditionCache(cache_bytes)
        self._hits = Counter("field_encoder_cache_hits", "Rows found encoded.", ("run",))
        self._misses = Counter("field_encoder_cache_misses", "Rows that had to be encoded.", ("run",))
        self._evictions = Counter("field_encoder_cache_evictions", "Encoded rows dropped for want of room.", ("run",))
        self._truncated = Counter("field_truncated_prompts", "Prompts that were cut when their rows were encoded.", ("run",))
        self._bytes = Gauge("field_encoder_cache_bytes", "Size of the encoded rows that are kept.", ("run",))
        self._tags = {"run": run}

    @property
    def device(self) -> torch.device:
        return self._family.device

    async def encode(self, rows: Sequence[Row], with_clean: bool = False, with_empty: bool = True) -> Condition:
        """The rows' conditions, in order, on the CPU.

        Args:
            rows: what is encoded.
            with_clean: whether their target images come as clean states.
            with_empty: whether the empty prompt's tensors come, about half of a condition's bytes; only guidance reads them.

        Raises:
            ValueError: for a row that cannot be encoded; names it.
        """
        return await self._compute(self._encode, rows, with_clean, with_empty)

    async def decode(self, x_0: Tensor) -> np.ndarray:
        """Clean states as images (batch, 3, H, W) or clips (batch, 3, frames, H, W), float32, [0, 1] up to overshoot."""
        return await self._compute(self._family.decode, x_0)

    def _encode(self, rows: Sequence[Row], with_clean: bool, with_empty: bool) -> Condition:
        keys = [content_key(row, with_empty) for row in rows]
        found = {key: condition for key in keys if (condition := self._cache.get(key)) is not None}
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in found}
        cut_before = self._family.truncated_prompts
        encoded = {key: self._kept(condition, with_empty) for key, condition in self._encode_together(missing).items()}
        dropped = sum(self._cache.keep(key, condition) for key, condition in encoded.items())
        for counter, count in (
            (self._hits, len(rows) - len(missing)),
            (self._misses, len(missing)),
            (self._evictions, dropped),
            (self._truncated, self._family.truncated_prompts - cut_before),
        ):
            if count:  # Ray refuses an increment of 0
                counter.inc(count, self._tags)
        self._bytes.set(self._cache.currsize, self._tags)
        conditions = [(found | encoded)[key] for key in keys]
        if with_clean:
            conditions = [self._family.with_clean(c, [row]) for c, row in zip(conditions, rows, strict=True)]
        return Condition.concatenate(conditions)

    @staticmethod
    def _kept(condition: Condition, with_empty: bool) -> Condition:
        """What is cached and sent of a row's condition: in the host's memory, so that no hit copies from the device again."""
        condition = condition if with_empty else replace(condition, unconditional={})
        return condition.to(torch.device("cpu"))

    def _encode_together(self, rows: dict[bytes, Row]) -> dict[bytes, Condition]:
        """Each row's condition, in tensors of its own: a slice would keep its whole batch alive."""
        if not self._family.encodes_batches:
            return {key: self._family.encode([row]) for key, row in rows.items()}
        batches: dict[Hashable, list[bytes]] = {}
        for key, row in rows.items():
            batches.setdefault(batch_key(row), []).append(key)
        encoded = {}
        for keys in batches.values():
            batch = self._family.encode([rows[key] for key in keys])
            encoded |= {key: batch.select(torch.tensor([n])) for n, key in enumerate(keys)}
        return encoded


def encoder_application(
    build_family: Callable[[], Family], cache_bytes: int, numerics: Numerics, run: str, identity: Identity, resources: Resources
) -> Application:
    """The Serve application of the condition encoder."""
    deployment = serve.deployment(name="encoder", **resources.deployment_options())(EncoderService)
    return deployment.bind(build_family, cache_bytes, numerics, run, identity)
