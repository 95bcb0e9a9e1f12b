"""SIGTERM as a request: what `ray job stop`, a drained pod and a batch system send."""

import signal
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


def uninterrupted() -> AbstractContextManager[None]:
    """Within it SIGTERM and SIGINT do nothing: a run is often asked twice to stop, and takes down what it deployed once."""
    return _handling(signal.SIG_IGN, signal.SIGTERM, signal.SIGINT)


def stop_requests(asked: threading.Event, *others: signal.Signals) -> AbstractContextManager[None]:
    """Within it SIGTERM, and the other signals, set the event; outside, Ray's handler ends the process, which takes down what
    was deployed."""
    return _handling(lambda *_: asked.set(), signal.SIGTERM, *others)


@contextmanager
def _handling(handler: Any, *numbers: signal.Signals) -> Generator[None]:
    """Python gives signals to the main thread only: a run in another thread is never asked."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
