"""A call that is repeated when its replica or worker is lost, and what the metrics show of it.

Every call of this system is pure, so repeating one is safe. What the called code itself raises (bad input, a velocity that
is not finite) is not repeated: it would be raised again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from math import inf
from typing import TypeVar

from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.util.metrics import Counter, Histogram

A = TypeVar("A")

LOST_CALL_ERRORS = (
    RayActorError,
    ObjectLostError,
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    TimeoutError,
)

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_LATENCY_BOUNDARIES_S = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]


class RepeatedCalls:
    """Makes calls until they are answered.

    Args:
        metric: what the metrics `..._seconds` (time of an answered call) and `..._retries` begin with.
        tags: of both metrics.
        patience_s: this long after a call was first lost, the last error is raised.
    """

    def __init__(self, metric: str, tags: Mapping[str, str], patience_s: float):
        names = tuple(tags)
        self._tags = dict(tags)
        self._patience_s = patience_s
        self._latency = Histogram(
            f"{metric}_seconds", "Time of an answered call.", boundaries=_LATENCY_BOUNDARIES_S, tag_keys=names
        )
        self._retries = Counter(f"{metric}_retries", "Calls repeated after a lost one.", names)

    async def answer(self, attempt: Callable[[], Awaitable[A]]) -> A:
        """The result of the first attempt that is not lost; the pause between attempts doubles up to 5 s.

        Raises:
            TimeoutError, RayActorError, ...: one of `LOST_CALL_ERRORS`, once patience is over.
            Exception: whatever else an attempt raised, at once.
        """
        loop = asyncio.get_running_loop()
        deadline, pause = inf, _FIRST_PAUSE_S
        while True:
            try:
                return await attempt()
            except LOST_CALL_ERRORS:
                deadline = min(deadline, loop.time() + self._patience_s)
                if loop.time() + pause > deadline:
                    raise
                self._retries.inc(tags=self._tags)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    @contextmanager
    def timed(self) -> Generator[None]:
        """Observe how long the block takes, unless it raises."""
        began = time.monotonic()
        yield
        self._latency.observe(time.monotonic() - began, tags=self._tags)
