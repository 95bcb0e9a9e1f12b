"""What it takes to bring a version of the student to all rollout workers of a node."""

import os
import time
from collections.abc import Sequence
from typing import Any

import ray
import torch

from actors.rollout_worker import PublishedWeights
from fields.carriers import Tensors, Weights
from fields.numerics import Numerics
from pipelines.cluster import connect
from pipelines.reports.measurement import Measurement, spread

_MEGABYTE = 10**6
_TENSORS = 64  # of a version, of one size


class _Receiver:
    """Takes a version as a rollout worker does: fetched, verified, and copied into a network's tensors."""

    def __init__(self, megabytes: int):
        Numerics().settle()
        self._own = _tensors(megabytes)

    def take(self, published: PublishedWeights) -> float:
        """Seconds that it took."""
        began = time.perf_counter()
        weights: Weights = ray.get(published.reference)
        for name, tensor in weights.tensors.items():
            self._own[name].copy_(tensor)
        return time.perf_counter() - began


def _tensors(megabytes: int) -> Tensors:
    return {f"{number:02}": torch.ones(megabytes * _MEGABYTE // 4 // _TENSORS) for number in range(_TENSORS)}


def publication(sizes: Sequence[int], workers: Sequence[int], repeats: int) -> Measurement:
    """Seconds from a student's tensors to all workers, against what no way around it saves.

    Args:
        sizes: of a version, in MB.
        workers: how many take it.
        repeats: of each.
    """
    if not ray.is_initialized():
        connect.start(print, include_dashboard=False)
    receiver: Any = ray.remote(_Receiver).options(num_cpus=0.001)
    rows, raw = [], {}
    for size in sizes:
        for count in workers:
            receivers = [receiver.remote(size) for _ in range(count)]
            whole, ratios, version = [], [], _tensors(size)
            try:
                for step in range(repeats + 1):
                    began = time.perf_counter()
                    published = PublishedWeights.put(Weights.of(step, version))
                    copied = time.perf_counter() - began
                    ray.get([one.take.remote(published) for one in receivers])
                    taken = time.perf_counter() - began
                    (alone,) = ray.get([receivers[0].take.remote(published)])
                    limit = copied + alone * max(1.0, count / (os.cpu_count() or 1))
                    if step:  # the first finds nothing imported
                        whole.append(taken)
                        ratios.append(taken / limit)
            finally:
                for one in receivers:
                    ray.kill(one)
            rows.append([f"{size} MB", str(count), *spread(whole), *spread(ratios)[:1]])
            raw[f"{size} MB to {count}"] = {"seconds": whole, "of the limit": ratios}
    return Measurement(
        name="publication",
        title=f"Seconds from the student's tensors to all rollout workers of a node ({repeats} repeats); the limit is "
        "one copy, hashed and stored, and one load of each worker on the cores that there are",
        columns=["version", "workers", "median", "lowest", "highest", "times the limit"],
        rows=rows,
        raw=raw,
    )
