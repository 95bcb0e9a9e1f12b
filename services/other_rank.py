"""The process of a rank that nobody asks but rank 0: it computes what that computes, for the weights that both share."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

from fields.numerics import Numerics
from fields.ranks.process_group import ProcessGroup
from fields.ranks.ranks import Ranks
from services.device_faults import DeviceFaults
from services.process_metrics import ProcessMetrics

M = TypeVar("M")

Call = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]  # of a function, after the model


class OtherRank(Generic[M]):
    """Computes in a thread, one call after the other; so it can say meanwhile that it is there.

    Args:
        numerics: how it computes; the same in every process of a run.
    """

    def __init__(self, numerics: Numerics):
        numerics.settle()
        self._metrics = ProcessMetrics()
        self._faults = DeviceFaults(self._metrics)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._loaded: M | None = None

    async def load(self, build: Callable[[Ranks], M], group: ProcessGroup, host: str, port: int) -> None:
        """Meet rank 0 where it listens, and load this rank's part of the model.

        Raises:
            RankMissing: if not all come.
        """

        def load() -> None:
            group.connect(host, port)
            self._loaded = build(group)

        await asyncio.get_running_loop().run_in_executor(self._thread, load)

    async def compute(self, call: Call) -> None:
        """Compute what rank 0 computes; raises what that raises."""
        function, arguments, keywords = call
        assert self._loaded is not None, "a rank is loaded before it is asked"
        computed = partial(function, self._loaded, *arguments, **keywords)
        await asyncio.get_running_loop().run_in_executor(self._thread, computed)
        self._metrics.record()

    async def check(self) -> None:
        """Raises if the device has failed."""
        await asyncio.to_thread(self._faults.check)

    async def stay(self) -> None:
        """Never returns: who waits for it learns of this process's end."""
        await asyncio.Event().wait()
