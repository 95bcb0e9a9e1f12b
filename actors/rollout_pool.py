"""The rollout workers as one pool: a call goes to whoever is free, and a lost one is made again."""

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError
from ray.util.metrics import Counter, Histogram

_PAUSE_S = 0.5
_LATENCY_BOUNDARIES_S = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]


class RolloutPool:
    """Spreads calls over rollout workers, one at a time each, used from one event loop.

    Which worker answers doesn't matter: a rollout is decided by its request. So a call that a dying worker lost is
    simply made again, while Ray restarts the worker.

    Args:
        workers: the actors, created with restarts allowed.
        run: name of the run, for the metrics.
        timeout_s: of one attempt.
        patience_s: after this long without an answer the last error is raised.
    """

    def __init__(self, workers: Sequence[Any], run: str, timeout_s: float = 300.0, patience_s: float = 900.0):
        self._idle: asyncio.Queue[Any] = asyncio.Queue()
        for worker in workers:
            self._idle.put_nowait(worker)
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._tags = {"run": run}
        self._latency = Histogram(
            "field_rollout_seconds", "Time of a rollout call.", boundaries=_LATENCY_BOUNDARIES_S, tag_keys=("run",)
        )
        self._retries = Counter("field_rollout_retries", "Rollouts repeated after a lost one.", ("run",))

    async def call(self, method: str, *arguments: Any) -> tuple[ray.ObjectRef, Any]:
        """The answer of `method(*arguments)` by a free worker, and its reference to pass on without the bytes.

        Raises:
            RayActorError, ObjectLostError, TimeoutError: once patience is over.
            Exception: whatever the worker raised.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            worker = await self._idle.get()
            started = loop.time()
            reference = getattr(worker, method).remote(*arguments)
            try:
                answer = await asyncio.wait_for(asyncio.wrap_future(reference.future()), self._timeout_s)
            except (RayActorError, ObjectLostError, TimeoutError):
                ray.cancel(reference)
                if loop.time() > deadline:
                    raise
                self._retries.inc(tags=self._tags)
            else:
                self._latency.observe(loop.time() - started, tags=self._tags)
                return reference, answer
            finally:
                self._idle.put_nowait(worker)
            await asyncio.sleep(_PAUSE_S)
