"""SIGTERM is a request inside, and what it was before outside."""

import os
import signal
import threading

from pipelines.run.stopping import stop_requests


def test_sigterm_is_a_request_within():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as asked:
        assert not asked.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_is_never_asked():
    seen = []

    def run() -> None:
        with stop_requests() as asked:
            seen.append(asked.is_set())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]
