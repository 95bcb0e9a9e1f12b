"""What every service's replica has in common."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch

from fields.memory.cost import Pass
from fields.numerics import Numerics, device_name
from services.applications import Identity
from services.device_faults import DeviceFaults
from services.process_metrics import ProcessMetrics
from services.ray_internals import listen_as_the_node_does

P = ParamSpec("P")
A = TypeVar("A")


class Replica(ABC):
    """Computes one call at a time, in a thread: a busy replica still answers its health check, and a hung one is noticed.

    Args:
        numerics: how it computes; the same in every process of a run.
        identity: what decides the answers, for whoever thinks of sharing this service.
    """

    def __init__(self, numerics: Numerics, identity: Identity):
        numerics.settle()
        listen_as_the_node_does()
        self._identity = identity
        self._process = ProcessMetrics()
        self._faults = DeviceFaults(self._process)
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def _compute(self, function: Callable[P, A], *arguments: P.args, **keywords: P.kwargs) -> A:
        """The result of `function(*arguments)`, computed after the calls that came before.

        A call whose caller has gone is skipped while it waits. Once it computes it computes to its end, and the next
        begins only then: a thread cannot be stopped, and two at once would take the memory of two. A broken device ends
        this replica.
        """
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._thread, lambda: self._faults.survive(function, *arguments, **keywords))
        self._process.record()
        return result

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it computes."""

    async def _rehearse(self, rehearse: Callable[[Pass], None], what: Pass) -> None:
        """Compute a pass for nothing: to be out of memory is its answer here, and no fault of the device."""
        await asyncio.get_running_loop().run_in_executor(self._thread, rehearse, what)

    async def identity(self) -> Identity:
        """What decides the answers, the kind and model of the device included, which only this process knows."""
        return {**self._identity, "device": device_name(self.device)}

    async def check_health(self) -> None:
        """Raises if the device has failed. Async on purpose: Serve notices a hung event loop only through an async check."""
        await asyncio.to_thread(self._faults.check)
