"""SIGTERM as a request: what `ray job stop`, a drained pod and a batch system send."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def stop_requests() -> Generator[threading.Event]:
    """Within it SIGTERM sets the event; outside, Ray's handler ends the process, which takes down what was deployed.

    Python gives signals to the main thread only: a run in another thread is never asked.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
