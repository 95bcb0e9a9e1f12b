"""A model that one process holds, or several together where no GPU holds it.

The processes of a model are its ranks. Rank 0 is asked, as a replica or a rollout worker; it starts the others, and lets them
compute each call that it computes itself, for every rank has but a part of the weights and gathers the rest from all. So ranks
are of no use without each other: where one is lost, rank 0 ends at once, the others end with it as actors end with their owner,
and whoever replaces rank 0 has the whole started anew.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from copy import copy
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fields.memory.rehearsal import DoesNotFit
from fields.numerics import Numerics
from fields.ranks.process_group import ProcessGroup
from fields.ranks.ranks import Ranks
from services.failures import cause, first_line
from services.other_rank import OtherRank

P = ParamSpec("P")
A = TypeVar("A")
M = TypeVar("M")

_APART_S = 60.0  # ranks that compute the same call end it almost together
_GRACE_S = 5.0  # after one rank failed, for the others to say what they know
_ANSWER_S = 20.0  # less than Serve waits for a health check

_log = logging.getLogger(__name__)

Options = Mapping[str, Any]  # of a Ray actor


class ModelRanks(Generic[M]):
    """The model of this process, rank 0. Calls come one after the other, from a thread that may wait.

    Args:
        build: loads the model, or a rank's part of it, on the device of the process that calls it.
        ranks: this process alone, or the process group of each rank.
        numerics: how all of them compute.
        others: where ranks 1, 2, ... are started; as many as there are beside this process.
    """

    def __init__(self, build: Callable[[Ranks], M], ranks: Sequence[Ranks], numerics: Numerics, others: Sequence[Options]):
        self._others: list[Any] = []
        self._out_of_step: BaseException | None = None
        self._thread = ThreadPoolExecutor(max_workers=1)
        own, rest = copy(ranks[0]), ranks[1:]  # a copy: Serve pickles once more what it constructed a replica with
        if not rest:
            self.model = build(own)
            return
        assert isinstance(own, ProcessGroup)
        self._others = [_start(numerics, options, rank) for rank, options in enumerate(others, 1)]
        assert len(self._others) == len(rest), f"{len(others)} places for {len(rest)} ranks"
        _answers([other.check.remote() for other in self._others])  # a process takes seconds to start, which no exchange waits
        host = ray.util.get_node_ip_address()
        port = own.listen(host)
        loading = [other.load.remote(build, group, host, port) for other, group in zip(self._others, rest, strict=True)]
        own.connect(host, port)
        self.model = build(own)
        _answers(loading)
        for rank, other in enumerate(self._others, 1):
            other.stay.remote().future().add_done_callback(lambda _, rank=rank: _end(f"rank {rank} has ended"))

    def compute(self, function: Callable[Concatenate[M, P], A], *arguments: P.args, **keywords: P.kwargs) -> A:
        """The result of `function(model, *arguments)`, which all ranks compute.

        What all of them raise is raised here. A rank that is lost, or that alone fails, ends this process.

        Raises:
            DoesNotFit: if one of the ranks has no memory for it. This process ends before it computes another call.
        """
        if not self._others:
            return function(self.model, *arguments, **keywords)
        if self._out_of_step is not None:
            _end(f"the ranks are out of step: {self._out_of_step}")
        call = ray.put((function, arguments, keywords))  # once: the ranks of a node map it
        own = self._thread.submit(function, self.model, *arguments, **keywords)
        outcomes: list[Future[Any]] = [own, *(other.compute.remote(call).future() for other in self._others)]
        wait(outcomes, return_when=FIRST_COMPLETED)  # an exchange has a time limit
        wait(outcomes, _APART_S, return_when=FIRST_EXCEPTION)
        if all(outcome.done() and outcome.exception() is None for outcome in outcomes):
            return own.result()
        wait(outcomes, _GRACE_S)
        self._raise_or_end([_failure(outcome) for outcome in outcomes])

    def _raise_or_end(self, failures: Sequence[BaseException | None]) -> NoReturn:
        """Ranks that raise the same are in step; but torch's own RuntimeError is also what a backend says of an exchange, after
        which they are none. One that has no memory left the others in an exchange, whose messages the next call would take for
        its own."""
        for failure in failures:
            if isinstance(failure, DoesNotFit):
                self._out_of_step = failure
                raise failure
        own = failures[0]
        if own is not None and {type(failure) for failure in failures} == {type(own)}:
            if not isinstance(own, RuntimeError):
                raise own
            if {str(failure) for failure in failures} == {str(own)}:
                self._out_of_step = own
                raise own
        said = "; ".join(f"{rank}: {first_line(failure) if failure else 'answered'}" for rank, failure in enumerate(failures))
        _end(f"the ranks don't answer alike ({said})")

    async def check(self) -> None:
        """Raises if the ranks are out of step, or a device has failed; ends this process if a rank doesn't answer."""
        if self._out_of_step is not None:
            raise self._out_of_step
        answers = [asyncio.wrap_future(other.check.remote().future()) for other in self._others]
        if not answers:
            return
        _, silent = await asyncio.wait(answers, timeout=_ANSWER_S)
        if silent:
            _end(f"{len(silent)} of {len(answers)} other ranks don't answer")
        await asyncio.gather(*answers)


def places_in_own_group() -> list[Options]:
    """Where a replica starts its other ranks: in the bundles of its placement group that come after its own."""
    group = ray.util.get_current_placement_group()
    assert group is not None, "a replica of several ranks has a placement group"
    return [
        {
            "num_cpus": bundle.get("CPU", 0),
            "num_gpus": bundle.get("GPU", 0),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place),
        }
        for place, bundle in enumerate(group.bundle_specs)
        if place > 0
    ]


def _start(numerics: Numerics, options: Options, rank: int) -> Any:
    """A rank's actor; the metrics count it as one of the processes that have the name of this one."""
    name = ray.get_runtime_context().get_actor_name()
    named = {"name": f"{name}#{os.getpid()}-{rank}"} if name else {}
    return ray.remote(OtherRank).options(**named, **options).remote(numerics)


def _answers(references: Sequence["ray.ObjectRef[Any]"]) -> None:
    """Wait for calls; raises what one of them raised."""
    for reference in references:
        reference.future().result()  # and not `ray.get`, which warns of a loop that waits: Serve constructs replicas in one


def _failure(outcome: "Future[Any]") -> BaseException | None:
    """What a call raised, as it was raised."""
    if not outcome.done():
        return TimeoutError("it doesn't answer")
    failure = outcome.exception()
    return cause(failure) if failure else None


def _end(why: str) -> NoReturn:
    """End this process, whatever its threads wait for."""
    _log.critical("this process ends with the other ranks of its model: %s", why)
    os._exit(1)
