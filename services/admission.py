"""The endpoint's queue: a fixed number of places, and an honest answer to who finds none."""

import math
import time
from collections.abc import Generator
from contextlib import contextmanager

_LONGEST_WAIT_S = 60


class Busy(Exception):
    """Every place is taken; `retry_after_s` says when to come back."""

    def __init__(self, limit: int, retry_after_s: int):
        super().__init__(f"all {limit} places of the queue are taken; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Admission:
    """Admits at most `limit` requests at a time; used from one event loop."""

    def __init__(self, limit: int):
        self.limit = limit
        self.taken = 0
        self._last_seconds = 1.0

    @contextmanager
    def place(self) -> Generator[None]:
        """A place for the time of one request.

        Raises:
            Busy: if none is free. A full queue drains in about the time that its last request spent in it.
        """
        if self.taken >= self.limit:
            raise Busy(self.limit, min(_LONGEST_WAIT_S, max(1, math.ceil(self._last_seconds))))
        self.taken += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.taken -= 1
            self._last_seconds = time.monotonic() - began
