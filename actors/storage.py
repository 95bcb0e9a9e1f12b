"""Writing to a run's folder while its disk is full, read-only or away for a while."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fields.storage_errors import is_outage
from services.failures import cause, first_line

A = TypeVar("A")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0


async def once_writable(
    write: Callable[[], Awaitable[A]], say: Callable[[str], None], gives_up: Callable[[], bool] = lambda: False
) -> A:
    """The result of a write, which is tried again until the storage takes it, however long that is: nothing of a run is lost.

    Args:
        write: can be repeated; one that failed has left nothing.
        say: is told when an outage begins and when it has ended.
        gives_up: whether to wait no longer.

    Raises:
        Exception: what is no outage, at once; an outage, once nobody waits any longer.
    """
    loop = asyncio.get_running_loop()
    began, pause = None, _FIRST_PAUSE_S
    while True:
        try:
            written = await write()
        except Exception as error:
            if not is_outage(cause(error)) or gives_up():
                raise
            if began is None:
                began = loop.time()
                say(f"the run's folder cannot be written ({first_line(error)}); the run waits, and tries again until it can")
        else:
            if began is not None:
                say(f"the run's folder can be written again, after {loop.time() - began:.0f} s")
            return written
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
