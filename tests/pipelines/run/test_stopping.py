"""SIGTERM is a request inside, and what it was before outside."""

import os
import signal
import threading

from pipelines.run.stopping import stop_requests, uninterrupted


def test_sigterm_is_a_request_within():
    before = signal.getsignal(signal.SIGTERM)
    asked = threading.Event()
    with stop_requests(asked):
        assert not asked.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_is_never_asked():
    seen = []

    def run() -> None:
        asked = threading.Event()
        with stop_requests(asked):
            seen.append(asked.is_set())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]


def test_who_takes_down_what_it_deployed_is_not_interrupted():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with uninterrupted():
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) is signal.SIG_IGN
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
