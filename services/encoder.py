"""The condition encoder as a Serve application: text encoders and the VAE live here, once, behind a cache."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from ray import serve
from ray.serve import Application
from ray.util.metrics import Counter

from fields.carriers import Condition
from fields.dataset import Row
from fields.families.base import Family
from services.resources import Resources


class EncoderService:
    """Encodes rows into conditions.

    Rows are encoded one by one, so a row's condition doesn't depend on its neighbours or on what the cache held.

    Args:
        build_family: makes the family with its encoders loaded.
        cache_rows: how many encoded rows are kept, least recently used out first.
        threads: torch threads, the same in every process of a run.
        run: name of the run, for the metrics.
    """

    def __init__(self, build_family: Callable[[], Family], cache_rows: int, threads: int, run: str):
        torch.set_num_threads(threads)
        self._family = build_family()
        self._cache: OrderedDict[bytes, Condition] = OrderedDict()
        self._cache_rows = cache_rows
        self._turn = asyncio.Lock()
        self._hits = Counter("field_encoder_cache_hits", "Rows found encoded.", ("run",))
        self._misses = Counter("field_encoder_cache_misses", "Rows that had to be encoded.", ("run",))
        self._tags = {"run": run}

    async def encode(self, rows: Sequence[Row], with_clean: bool = False) -> Condition:
        """The rows' conditions, in order, with their target images as clean states where asked for.

        Raises:
            ValueError: for a row that cannot be encoded; names it.
        """
        async with self._turn:
            return await asyncio.to_thread(self._encode, rows, with_clean)

    def _encode(self, rows: Sequence[Row], with_clean: bool) -> Condition:
        conditions = [self._encode_row(row) for row in rows]
        if with_clean:
            conditions = [self._family.with_clean(c, [row]) for c, row in zip(conditions, rows, strict=True)]
        return Condition.concatenate(conditions)

    def _encode_row(self, row: Row) -> Condition:
        key = hashlib.blake2b(
            f"{row.prompt}\0{row.negative_prompt}\0{row.width}x{row.height}\0".encode() + (row.source_image or b"")
        ).digest()
        if key in self._cache:
            self._cache.move_to_end(key)
            self._hits.inc(tags=self._tags)
            return self._cache[key]
        condition = self._family.encode([row])
        self._misses.inc(tags=self._tags)
        self._cache[key] = condition
        if len(self._cache) > self._cache_rows:
            self._cache.popitem(last=False)
        return condition

    async def check_health(self) -> None:
        """Async on purpose: Serve notices a hung event loop only through an async check."""


def encoder_application(
    build_family: Callable[[], Family], cache_rows: int, threads: int, run: str, resources: Resources
) -> Application:
    """The Serve application of the condition encoder."""
    deployment = serve.deployment(name="encoder", **resources.deployment_options())(EncoderService)
    return deployment.bind(build_family, cache_rows, threads, run)
