"""One computation at a time: what a replica does with the calls that it accepted."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

A = TypeVar("A")


class Turn:
    """Runs calls in one thread, in the order in which they ask; the event loop stays free for health checks.

    A call whose caller has gone is skipped while it waits. Once it computes it computes to its end, and the next begins
    only then: a thread cannot be stopped, and two at once would take the memory of two.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def __call__(self, compute: Callable[..., A], *arguments: Any) -> A:
        """The result of `compute(*arguments)`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, compute, *arguments)
