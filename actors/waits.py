"""What is waited for at this moment, so that a run that stands still can say so."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager


class Waits:
    """The waits that are open, in the order in which they began."""

    def __init__(self) -> None:
        self._open: dict[object, tuple[str, float]] = {}

    @contextmanager
    def on(self, what: str) -> Generator[None]:
        """While the block runs, this is waited for."""
        key = object()
        self._open[key] = what, time.monotonic()
        try:
            yield
        finally:
            del self._open[key]

    def lines(self) -> list[str]:
        """One per open wait: what, and since when."""
        now = time.monotonic()
        return [f"{what}, for {now - since:.0f} s" for what, since in self._open.values()]


def numbered(sample_ids: Sequence[int]) -> str:
    """How samples are named in a line.

    >>> numbered((4,)), numbered((4, 5, 6)), numbered((4, 9))
    ('sample 4', 'samples 4 to 6', 'samples 4, 9')
    """
    if len(sample_ids) == 1:
        return f"sample {sample_ids[0]}"
    if list(sample_ids) == list(range(sample_ids[0], sample_ids[0] + len(sample_ids))):
        return f"samples {sample_ids[0]} to {sample_ids[-1]}"
    return f"samples {', '.join(map(str, sample_ids))}"
