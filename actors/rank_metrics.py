"""What a rank of the learner shows on Ray's metrics port."""

from resource import RUSAGE_SELF, getrusage

import torch
from ray.util.metrics import Counter, Gauge


class RankMetrics:
    """The `field_rank_*` metrics of one rank.

    Args:
        run: name of the run.
        rank: of this process.
    """

    def __init__(self, run: str, rank: int):
        self._tags = {"run": run, "rank": str(rank)}
        names = tuple(self._tags)
        self._step = Gauge("field_rank_step", "Optimizer steps that a rank of the learner has done.", names)
        self._seconds = Counter("field_rank_seconds", "Seconds that a rank spent in optimizer steps.", names)
        self._wait = Counter("field_rank_wait_seconds", "Seconds of these in which it waited for the others.", names)
        self._memory = Gauge(
            "field_rank_memory_bytes", "The most a rank has held: of a GPU's memory, else of the host's.", names
        )

    def record(self, step: int, seconds: float, waited: float) -> None:
        """After a step: how many are done, and how long this one took and waited."""
        self._step.set(step, self._tags)
        self._seconds.inc(max(seconds, 1e-9), self._tags)  # Ray refuses an increment of 0
        self._wait.inc(max(waited, 1e-9), self._tags)
        on_host = 1024 * getrusage(RUSAGE_SELF).ru_maxrss  # Linux counts it in KiB
        self._memory.set(torch.cuda.max_memory_allocated() or on_host, self._tags)
