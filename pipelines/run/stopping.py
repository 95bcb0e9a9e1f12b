"""SIGTERM as a request: what `ray job stop`, a drained pod and a batch system send."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Generator[None]:
    """Within it SIGTERM and SIGINT do nothing: a run is often asked twice to stop, and takes down what it deployed once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_requests(asked: threading.Event) -> Generator[None]:
    """Within it SIGTERM sets the event; outside, Ray's handler ends the process, which takes down what was deployed.

    Python gives signals to the main thread only: a run in another thread is never asked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
