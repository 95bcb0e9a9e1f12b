"""The rollout workers as one pool: a call goes to whoever is free, and a lost one is made again."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.util.metrics import Gauge
from torch import Tensor

from actors.hang_limit import HangLimit
from actors.rollout_worker import PublishedWeights
from actors.waits import Waits
from fields.carriers import Condition, Query, SealedQueries
from fields.memory.cost import Pass
from fields.method.plan import Batch
from services.repeated_calls import LOST_CALL_ERRORS, RepeatedCalls

_log = logging.getLogger(__name__)

_COMES_BACK_S = 60.0
_PAUSE_S = 0.2
_LOAD = "load"  # the kind of a start, among those of calls

P = ParamSpec("P")
A = TypeVar("A")


class ActorMethod(Protocol[P, A]):
    """A method of an actor, as its handle offers it."""

    def remote(self, *arguments: P.args, **keywords: P.kwargs) -> "ray.ObjectRef[A]":
        """Send the call; the reference is of the method's result."""
        ...

    def options(self, *, num_returns: int) -> Any:
        """The method with several results."""
        ...


class WorkerHandle(Protocol):
    """`RolloutWorker`, seen from elsewhere."""

    ready: ActorMethod[[], None]
    rehearse: ActorMethod[[Pass, PublishedWeights], None]
    queries: ActorMethod[[Batch, Sequence[Condition], PublishedWeights], SealedQueries | tuple[SealedQueries, ...]]
    velocity: ActorMethod[[Query, PublishedWeights | None], Tensor]
    generate: ActorMethod[[Tensor, Tensor, Condition, PublishedWeights | None, float], Tensor]


class RolloutPool:
    """Spreads calls over rollout workers, one at a time each, used from one event loop.

    Which worker answers doesn't matter: a rollout is decided by its request. So a call that a dying worker lost is
    simply made again, while Ray restarts the worker; and workers may come and go while calls are made.

    Args:
        start_worker: starts the worker of a number, restarts allowed.
        size: workers at first, numbered from 0.
        run: name of the run, for the metrics.
        watchdog_s: a worker that takes longer than this, and ten times longer than any has for such a call, is taken to hang
            and started anew.
        first_s: the limit before such a call was ever answered, as a rollout of a large model, or loading it, takes minutes.
        patience_s: this long after the first loss the last error is raised.

    Attributes:
        rolled_out_s: seconds of all workers together in calls of `queries` so far.
        waits: what the workers are asked at this moment.
    """

    def __init__(
        self,
        start_worker: Callable[[int], WorkerHandle],
        size: int,
        run: str,
        watchdog_s: float,
        first_s: float = 1800.0,
        patience_s: float = 900.0,
    ):
        self._start_worker = start_worker
        self._workers = {number: start_worker(number) for number in range(size)}
        self._idle: asyncio.Queue[int] = asyncio.Queue()
        for number in self._workers:
            self._idle.put_nowait(number)
        self._resizing = asyncio.Lock()
        self._limit = HangLimit(watchdog_s, first_s)
        self.rolled_out_s = 0.0
        self.waits = Waits()
        self._returning: set[asyncio.Task[None]] = set()
        self._starting: dict[int, float] = {}  # since when a worker that was lost is started anew, by its number
        self._tags = {"run": run}
        self._calls = RepeatedCalls("field_rollout", self._tags, patience_s)
        self._size = Gauge("field_rollout_workers", "Workers that there should be.", ("run",))
        self._size.set(size, self._tags)

    @property
    def size(self) -> int:
        """Workers that there are; a new one counts once it has loaded the base."""
        return len(self._workers)

    async def ready(self) -> None:
        """Returns once every worker has loaded the base."""
        await asyncio.gather(*(self._loaded(worker) for worker in self._workers.values()))

    async def rehearse(self, what: Pass, weights: PublishedWeights) -> None:
        """Let every worker compute the largest forward of a rollout with these weights, before any other call is made.

        Raises:
            DoesNotFit: if a worker's device has no memory for it.
        """

        async def rehearsed(worker: WorkerHandle) -> None:
            await asyncio.wrap_future(worker.rehearse.remote(what, weights).future())

        await asyncio.gather(*(self._calls.answer(partial(rehearsed, worker)) for worker in self._workers.values()))

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
                _end(self._workers.pop(await self._last_idle()))
            self._size.set(len(self._workers), self._tags)
            for failure in joined:
                if failure is not None:
                    raise failure

    async def _join(self, number: int, timeout_s: float) -> None:
        worker = self._start_worker(number)
        try:
            await asyncio.wait_for(self._loaded(worker), timeout_s)
        except BaseException:
            _end(worker)
            raise
        self._workers[number] = worker
        self._starting.pop(number, None)
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
            _end(worker)

    async def queries(
        self, batch: Batch, conditions: Sequence[Condition], weights: PublishedWeights
    ) -> list[tuple[SealedQueries, "ray.ObjectRef[SealedQueries]"]]:
        """The states of each group of a batch at their query points, rolled out with these weights, and their reference: to
        pass them on without the bytes. Raises as `_call` does."""

        def request(worker: WorkerHandle) -> "list[ray.ObjectRef[SealedQueries]]":
            found = worker.queries.options(num_returns=len(batch)).remote(batch, conditions, weights)
            return found if len(batch) > 1 else [found]

        return await self._call("queries", request, self._count)

    def _count(self, seconds: float) -> None:
        self.rolled_out_s += seconds

    async def velocity(self, query: Query, weights: PublishedWeights | None) -> Tensor:
        """The velocity at the query's states, by these weights or (None) by the bare base. Raises as `_call` does."""
        ((velocity, _),) = await self._call("velocity", lambda worker: [worker.velocity.remote(query, weights)])
        return velocity

    async def generate(
        self, noise: Tensor, grid: Tensor, condition: Condition, weights: PublishedWeights | None, guidance: float
    ) -> Tensor:
        """Clean states from the given noise, by these weights or (None) by the bare base. Raises as `_call` does."""
        asked = noise, grid, condition, weights, guidance
        ((x_0, _),) = await self._call("generate", lambda worker: [worker.generate.remote(*asked)])
        return x_0

    async def _loaded(self, worker: WorkerHandle) -> None:
        """Returns once a worker has loaded the base; what that took limits how long it may take again."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.wrap_future(worker.ready.remote().future())
        self._limit.answered(_LOAD, loop.time() - began)

    async def _return(self, number: int, worker: WorkerHandle) -> None:
        """Let a worker that was lost have calls again once it has loaded the base: no call's time is that of a start. One that
        hangs while it loads is started anew, too; one that doesn't come has calls all the same, and whoever makes one is told
        why."""
        loop = asyncio.get_running_loop()
        began = self._starting.setdefault(number, loop.time())
        given_up = loop.time() + _COMES_BACK_S
        with self.waits.on(f"rollout worker {number}: to load the base again"):
            while loop.time() < given_up:
                limit_s = self._limit.seconds(_LOAD)
                try:
                    await asyncio.wait_for(self._loaded(worker), began + limit_s - loop.time())
                    del self._starting[number]
                    break
                except LOST_CALL_ERRORS:  # of a worker that is being started Ray says at once that it is not there
                    if loop.time() >= began + limit_s:
                        self._limit.reached(_LOAD, limit_s)
                        _log.warning("rollout worker %d has not loaded for %.0f s: it is started anew", number, limit_s)
                        ray.kill(cast(ActorHandle[Any], worker), no_restart=False)
                        began = self._starting[number] = loop.time()
                        given_up = began + _COMES_BACK_S
                    await asyncio.sleep(_PAUSE_S)
        self._idle.put_nowait(number)

    async def _call(
        self,
        kind: str,
        request: Callable[[WorkerHandle], "list[ray.ObjectRef[A]]"],
        count: Callable[[float], None] = lambda seconds: None,
    ) -> "list[tuple[A, ray.ObjectRef[A]]]":
        """A free worker's answers to a request of a kind, and their references; `count` is told the seconds of each attempt.

        Raises:
            RayActorError, ObjectLostError, TimeoutError: once patience is over.
            Exception: whatever the worker raised.
        """

        async def attempt() -> "list[tuple[A, ray.ObjectRef[A]]]":
            number = await self._idle.get()
            loop = asyncio.get_running_loop()
            began, limit_s = loop.time(), self._limit.seconds(kind)
            references = request(worker := self._workers[number])
            lost = False
            try:
                with self._calls.timed(), self.waits.on(f"rollout worker {number}: {kind}"):
                    coming = asyncio.gather(*(asyncio.wrap_future(reference.future()) for reference in references))
                    answered = list(zip(await asyncio.wait_for(coming, limit_s), references, strict=True))
                self._limit.answered(kind, loop.time() - began)
                self._starting.pop(number, None)
                return answered
            except (*LOST_CALL_ERRORS, asyncio.CancelledError) as error:
                lost = isinstance(error, RayActorError | TimeoutError)
                if isinstance(error, TimeoutError) and not isinstance(error, RayTaskError):  # nobody raised it: it hangs
                    self._limit.reached(kind, limit_s)
                    _log.warning("rollout worker %d has not answered for %.0f s: it is started anew", number, limit_s)
                    ray.kill(cast(ActorHandle[Any], worker), no_restart=False)
                else:
                    ray.cancel(references[0])
                raise
            finally:
                count(loop.time() - began)
                if lost:
                    self._returning.add(task := asyncio.create_task(self._return(number, worker)))
                    task.add_done_callback(self._returning.discard)
                else:
                    self._idle.put_nowait(number)

        return await self._calls.answer(attempt)


def _end(worker: WorkerHandle) -> None:
    ray.kill(cast(ActorHandle[Any], worker))
