"""The learner's ranks as one: what all of them are asked, and who is missed."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError
from torch import Tensor
from torch.distributed import DistError

from actors.example_reference import ExampleReference
from actors.hang_limit import HangLimit
from actors.learner_rank import LearnerRank
from actors.rollout_worker import PublishedWeights
from fields.carriers import Weights
from fields.device_errors import breaks_device
from fields.memory.cost import Pass
from fields.method.objective import Reduction
from fields.ranks.process_group import RankMissing
from fields.ranks.share import Learned, Share
from fields.update import Update
from services.failures import cause, first_line

_log = logging.getLogger(__name__)

P = ParamSpec("P")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

_UPDATE = "update"
_GRACE_S = 5.0  # after one rank failed, for the others to say what they know
_APART_S = 900.0  # between the first and the last answer to what all are asked
_SILENT_S = 60.0  # after which it is said that nobody answers
ENDED = (RayActorError, OutOfMemoryError, ObjectLostError)  # an actor's process is gone, by the host's memory or otherwise


class RanksLost(Exception):
    """Ranks have ended, or did not come; those that are left are of no use without them."""


class RanksHang(RanksLost):
    """None has answered in time."""


class RankMethod(Protocol[P, A_co]):
    """A method of a rank, as its handle offers it."""

    def remote(self, *arguments: P.args, **keywords: P.kwargs) -> Awaitable[A_co]:
        """Send the call."""
        ...


class RankHandle(Protocol):
    """`LearnerRank` in a process of its own, seen from the learner."""

    load: RankMethod[[], None]
    device: RankMethod[[], str]
    listen: RankMethod[[], tuple[str, int]]
    connect: RankMethod[[str, int], None]
    begin: RankMethod[[], None]
    restore: RankMethod[[Path], dict[int, Weights]]
    rehearse: RankMethod[[Pass], None]
    update: RankMethod[[Share, Sequence[ExampleReference]], tuple[list[Learned], float]]
    weights: RankMethod[[int], Weights]
    averaged_weights: RankMethod[[int], Weights]
    velocity: RankMethod[[ExampleReference], Tensor]
    save: RankMethod[[Path, int, Mapping[int, PublishedWeights], Mapping[str, Any]], None]


class _Here(Generic[P, A]):
    def __init__(self, thread: ThreadPoolExecutor, method: Callable[P, A]):
        self._thread = thread
        self._method = method

    def remote(self, *arguments: P.args, **keywords: P.kwargs) -> Awaitable[A]:
        return asyncio.get_running_loop().run_in_executor(self._thread, lambda: self._method(*arguments, **keywords))


class RankHere:
    """A rank in this process, called as one elsewhere is: a call computes in a thread, one after the other."""

    def __init__(self, rank: LearnerRank):
        thread = ThreadPoolExecutor(max_workers=1)
        self.load = _Here(thread, rank.load)
        self.device = _Here(thread, rank.device)
        self.listen = _Here(thread, rank.listen)
        self.connect = _Here(thread, rank.connect)
        self.begin = _Here(thread, rank.begin)
        self.restore = _Here(thread, rank.restore)
        self.rehearse = _Here(thread, rank.rehearse)
        self.update = _Here(thread, rank.update)
        self.weights = _Here(thread, rank.weights)
        self.averaged_weights = _Here(thread, rank.averaged_weights)
        self.velocity = _Here(thread, rank.velocity)
        self.save = _Here(thread, rank.save)


class RankGroup:
    """Asks all ranks together, used from one event loop. Every method raises `RanksLost` if a rank has ended or hangs.

    Args:
        ranks: by number.
        over_queries: whether the loss of a sample is the mean or the sum over its queries.
        shards: whether they share weights, which they gather by exchanges of PyTorch's own.
        limit: of an update; None has none. Groups that follow one another in a learner share it.
    """

    def __init__(
        self,
        ranks: "Sequence[RankHandle | RankHere]",
        over_queries: Reduction,
        shards: bool = False,
        limit: HangLimit | None = None,
    ):
        self._ranks = ranks
        self._shards = shards
        self._limit = limit or HangLimit(inf, inf)
        self._hangs = False
        self._over_queries: Reduction = over_queries

    async def load(self) -> None:
        """Let the ranks meet, load every one, and begin alike."""
        if len(self._ranks) > 1:
            ((host, port),) = await self._all([self._first.listen.remote()])
            await self._all([rank.connect.remote(host, port) for rank in self._ranks])
        await self._all([rank.load.remote() for rank in self._ranks], bounded=False)
        await self._all([rank.begin.remote() for rank in self._ranks])

    async def device(self) -> str:
        """What the student learns on: kind and model."""
        return (await self._all([self._first.device.remote()]))[0]

    async def restore(self, path: Path) -> dict[int, Weights]:
        """Continue from a checkpoint; the versions that coming steps roll out with."""
        return (await self._all([rank.restore.remote(path) for rank in self._ranks], bounded=False))[0]

    async def rehearse(self, what: Pass) -> None:
        """Compute the largest micro-batch for nothing; raises `DoesNotFit`."""
        await self._all([rank.rehearse.remote(what) for rank in self._ranks])

    async def update(self, examples: Sequence[ExampleReference]) -> Update:
        """One optimizer step, for which every rank fetches its own examples; raises as `Distiller.learn` does."""
        shares = Share.all([example.outline for example in examples], len(self._ranks), self._over_queries)
        loop = asyncio.get_running_loop()
        began = loop.time()
        limit_s = self._limit.seconds(_UPDATE)
        calls = [
            rank.update.remote(share, [examples[place] for place in share.places])
            for rank, share in zip(self._ranks, shares, strict=True)
        ]
        try:
            answers = await self._all(calls, within_s=limit_s)
        except RanksHang:
            self._hangs = True
            self._limit.reached(_UPDATE, limit_s)
            raise
        self._limit.answered(_UPDATE, loop.time() - began)
        return Update.of(shares[0], [one for learned, _ in answers for one in learned], answers[0][1])

    def weights(self, version: int) -> "asyncio.Future[Weights]":
        """The student's trainable tensors as they are now: the ranks are asked before this returns, so that updates which are
        asked for later, also before these have come, change nothing about them."""
        return asyncio.ensure_future(_first_of(self._all([rank.weights.remote(version) for rank in self._ranks])))

    async def averaged_weights(self, version: int) -> Weights:
        """Their moving average."""
        return (await self._all([rank.averaged_weights.remote(version) for rank in self._ranks]))[0]

    async def velocity(self, example: ExampleReference) -> Tensor:
        """The student's velocity at the states of the example's query, on the CPU."""
        return (await self._all([rank.velocity.remote(example) for rank in self._ranks]))[0]  # all, if they share the weights

    async def save(self, folder: Path, step: int, published: Mapping[int, PublishedWeights], recipe: Mapping[str, Any]) -> None:
        """Write a checkpoint."""
        await self._all([rank.save.remote(folder, step, published, recipe) for rank in self._ranks], bounded=False)

    def end(self) -> None:
        """End the ranks that have processes of their own, whatever they are doing; a thread that hangs takes this one along."""
        for rank in self._ranks:
            if not isinstance(rank, RankHere):
                ray.kill(cast(ActorHandle[Any], rank))
            elif self._hangs:
                _log.error("an update hangs in this process, which therefore ends")
                os._exit(1)

    @property
    def _first(self) -> RankHandle | RankHere:
        return self._ranks[0]

    async def _all(self, calls: Sequence[Awaitable[A]], bounded: bool = True, within_s: float = inf) -> list[A]:
        """Everybody's answer.

        Args:
            calls: one to each rank.
            bounded: whether the last has to come soon after the first; one that reads or writes files may take longer.
            within_s: in which the first has to come, and then the last.

        Raises:
            RanksLost: names the ranks that have ended, or did not come while others waited for them; `RanksHang` if none came.
            Exception: whatever else a rank raised.
        """
        tasks = [asyncio.ensure_future(call) for call in calls]
        if came := await _one(tasks, within_s):
            await asyncio.wait(tasks, timeout=min(_APART_S, within_s) if bounded else None, return_when=asyncio.FIRST_EXCEPTION)
        if not all(task.done() and task.exception() is None for task in tasks):
            await asyncio.wait(tasks, timeout=_GRACE_S)
        failures = {rank: task.exception() for rank, task in enumerate(tasks) if task.done()}
        ended = [rank for rank, failure in failures.items() if failure is not None and _ends(failure)]
        hung = [rank for rank in range(len(tasks)) if rank not in failures]
        for failure in failures.values():
            if failure is not None and not ended and not self._may_follow(failure, hung):
                raise failure  # where a rank has ended, whatever the others say may follow from that
        if not ended and not hung and not any(failures.values()):
            return [task.result() for task in tasks]
        said = "; ".join(first_line(failure) for failure in failures.values() if failure is not None)
        lost = RanksLost if came else RanksHang
        raise lost(f"learner ranks that ended: {ended or 'none'}, that did not come: {hung or 'none'} ({said})")

    def _may_follow(self, failure: BaseException, hung: Sequence[int]) -> bool:
        """Whether a failure is what a rank says of others. An exchange of FSDP2 that lacks a rank raises torch's own error."""
        of_torch = type(cause(failure)) is RuntimeError or isinstance(failure, DistError)
        return isinstance(failure, RankMissing) or (self._shards and bool(hung) and of_torch)


async def _first_of(answers: "Awaitable[list[A]]") -> A:
    return (await answers)[0]


async def _one(tasks: "Sequence[asyncio.Task[A]]", within_s: float) -> bool:
    """True once one rank has answered, False if none has in so many seconds. What takes long is told."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (left := began + within_s - loop.time()) > 0:
        if (await asyncio.wait(tasks, timeout=min(_SILENT_S, left), return_when=asyncio.FIRST_COMPLETED))[0]:
            return True
        waited = loop.time() - began
        _log.warning("no learner rank has answered for %.0f s: they compute, or have no place on the cluster's nodes", waited)
    return False


def _ends(failure: BaseException) -> bool:
    """Whether a rank is of no use any more: its process has ended, or its device is broken."""
    raised = cause(failure)
    return isinstance(failure, ENDED) or (isinstance(raised, RuntimeError) and breaks_device(raised))
