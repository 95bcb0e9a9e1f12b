"""Waiting for a condition: the one place in the tests that sleeps until something has happened."""

import time
from collections.abc import Callable
from typing import TypeVar

LIMIT_S = 600.0  # only what hangs takes so long, also on a machine that is busy with something else

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str | Callable[[], object], every_s: float = 0.2, limit_s: float = LIMIT_S) -> T:
    """The condition's first answer that is true.

    Args:
        condition: what has to hold, or to come.
        what: what is waited for, for the message; a function is called when waiting ends in vain, and can say how far it came.
        every_s: between two questions.
        limit_s: after which waiting is in vain.

    Raises:
        AssertionError: when waiting is in vain.
    """
    began = time.monotonic()
    while not (answer := condition()):
        if time.monotonic() - began > limit_s:
            raise AssertionError(f"waited {limit_s:.0f} s in vain for: {what if isinstance(what, str) else what()}")
        time.sleep(every_s)
    return answer
