"""The rollout workers as one pool: a call goes to whoever is free, and a lost one is made again."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError
from ray.util.metrics import Counter, Gauge, Histogram

_PAUSE_S = 0.5
_LATENCY_BOUNDARIES_S = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]


class RolloutPool:
    """Spreads calls over rollout workers, one at a time each, used from one event loop.

    Which worker answers doesn't matter: a rollout is decided by its request. So a call that a dying worker lost is
    simply made again, while Ray restarts the worker; and workers may come and go while calls are made.

    Args:
        start_worker: starts the worker of a number, restarts allowed.
        size: workers at first, numbered from 0.
        run: name of the run, for the metrics.
        timeout_s: of one attempt; a rollout of a large model takes minutes, and only a hung worker takes this long.
        patience_s: this long after the first loss the last error is raised.
    """

    def __init__(
        self, start_worker: Callable[[int], Any], size: int, run: str, timeout_s: float = 1800.0, patience_s: float = 900.0
    ):
        self._start_worker = start_worker
        self._workers = {number: start_worker(number) for number in range(size)}
        self._idle: asyncio.Queue[int] = asyncio.Queue()
        for number in self._workers:
            self._idle.put_nowait(number)
        self._resizing = asyncio.Lock()
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._tags = {"run": run}
        self._latency = Histogram(
            "field_rollout_seconds", "Time of a rollout call.", boundaries=_LATENCY_BOUNDARIES_S, tag_keys=("run",)
        )
        self._size = Gauge("field_rollout_workers", "Workers that there should be.", ("run",))
        self._size.set(size, self._tags)
        self._retries = Counter("field_rollout_retries", "Rollouts repeated after a lost one.", ("run",))

    @property
    def size(self) -> int:
        """Workers that there are; a new one counts once it has loaded the base."""
        return len(self._workers)

    async def ready(self) -> None:
        """Returns once every worker has loaded the base."""
        await asyncio.gather(*(_loaded(worker) for worker in self._workers.values()))

    async def resize(self, size: int, timeout_s: float) -> None:
        """Start or end workers until there are `size`, at least 1. A new one gets calls once it has loaded the base; one
        that is ended finishes its call before; the others are not disturbed.

        Raises:
            TimeoutError, RayActorError: if a worker found no place, or could not load; it is ended, the others stay.
        """
        async with self._resizing:
            free = [number for number in range(size) if number not in self._workers][: max(0, size - len(self._workers))]
            joined = await asyncio.gather(*(self._join(number, timeout_s) for number in free), return_exceptions=True)
            while len(self._workers) > size:
                ray.kill(self._workers.pop(await self._last_idle()))
            self._size.set(len(self._workers), self._tags)
            for failure in joined:
                if failure is not None:
                    raise failure

    async def _join(self, number: int, timeout_s: float) -> None:
        worker = self._start_worker(number)
        try:
            await asyncio.wait_for(_loaded(worker), timeout_s)
        except BaseException:
            ray.kill(worker)
            raise
        self._workers[number] = worker
        self._idle.put_nowait(number)

    async def _last_idle(self) -> int:
        """The highest number that is free, once one is: the room of the lower ones may be reserved."""
        idle = [await self._idle.get()]
        while not self._idle.empty():
            idle.append(self._idle.get_nowait())
        last = max(idle)
        for number in idle:
            if number != last:
                self._idle.put_nowait(number)
        return last

    def end(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self._workers.values():
            ray.kill(worker)

    async def call(self, method: str, *arguments: Any) -> tuple[ray.ObjectRef, Any]:
        """The answer of `method(*arguments)` by a free worker, and its reference to pass on without the bytes.

        Raises:
            RayActorError, ObjectLostError, TimeoutError: once patience is over.
            Exception: whatever the worker raised.
        """
        loop = asyncio.get_running_loop()
        deadline = inf
        while True:
            number = await self._idle.get()
            started = loop.time()
            reference = getattr(self._workers[number], method).remote(*arguments)
            try:
                answer = await asyncio.wait_for(asyncio.wrap_future(reference.future()), self._timeout_s)
            except (RayActorError, ObjectLostError, TimeoutError):
                ray.cancel(reference)
                deadline = min(deadline, loop.time() + self._patience_s)
                if loop.time() > deadline:
                    raise
                self._retries.inc(tags=self._tags)
            else:
                self._latency.observe(loop.time() - started, tags=self._tags)
                return reference, answer
            finally:
                self._idle.put_nowait(number)
            await asyncio.sleep(_PAUSE_S)


async def _loaded(worker: Any) -> None:
    await asyncio.wrap_future(worker.ready.remote().future())
