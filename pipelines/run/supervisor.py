"""A run's supervisor: a small process that starts the driver again where that ends without having finished.

It imports neither torch nor Ray, so what breaks the driver doesn't break it.
"""

import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from pipelines.run.stopping import stop_requests

STOPPED = 128 + signal.SIGTERM  # the exit status of a run that saved a checkpoint and ended as it was asked to
_MOST_STARTS = 4  # with no new checkpoint in between
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


def supervise(
    driver: Sequence[str],
    patient: Sequence[str],
    resuming: Sequence[str],
    saved_step: Callable[[], int | None],
    say: Callable[[str], None],
) -> int:
    """Run a driver to its end, whatever befalls its process; returns its exit status.

    A run that is finished, or was stopped as asked, ends it; and so does what the first driver finds wrong with the input. A
    driver that ends otherwise is started again, after 1 s, 2 s, ... up to 60 s, unless it was started four times
    without a new checkpoint.

    Args:
        driver: its command.
        patient: what is added when it is started again: what it uses may be on its way back, too.
        resuming: what is added then to continue the run, once there is something to continue.
        saved_step: the step of the newest checkpoint that the run has written since; None before the first.
        say: shows a line to the user.
    """
    starts, stop = Counter[int | None](), threading.Event()
    command, pause, started = driver, _FIRST_PAUSE_S, False
    with stop_requests(stop, signal.SIGINT):
        while True:
            at = saved_step()
            starts[at] += 1
            status = _run(command, stop)
            if status in (0, STOPPED) or (status == 2 and not started) or stop.is_set():
                return status if status >= 0 else 128 - status
            if (now := saved_step()) != at:
                pause = _FIRST_PAUSE_S
            elif starts[at] >= _MOST_STARTS:
                say(f"the driver ended {_MOST_STARTS} times with no new checkpoint in between; it is not started again")
                return status if status >= 0 else 128 - status
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            say(f"warning: the driver {how}; it is started again{'' if now is None else f', to continue from step {now}'}")
            if stop.wait(pause):
                return STOPPED
            command = [*driver, *patient, *(() if now is None else resuming)]
            pause, started = min(2 * pause, _LONGEST_PAUSE_S), True


def _run(command: Sequence[str], stop: threading.Event) -> int:
    """The exit status of one driver, which is told once that it should stop; negative for the signal that ended it."""
    driver = subprocess.Popen(command)
    told = False
    while True:
        try:
            return driver.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if stop.is_set() and not told:
                driver.send_signal(signal.SIGTERM)
                told = True
