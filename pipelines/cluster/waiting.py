"""Saying what is waited for."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Timer

SILENCE_S = 5.0  # what takes longer is said


@contextmanager
def waiting_for(what: str, say: Callable[[str], None], after_s: float = SILENCE_S) -> Generator[None]:
    """Say `waiting for WHAT` once if the block takes longer than `after_s` seconds."""
    timer = Timer(after_s, say, [f"waiting for {what}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
