"""How many rollout workers there should be: as many as keep the learner busy, found while it learns."""

import asyncio
import logging
from math import ceil

from ray.exceptions import RayError
from ray.util.metrics import Counter

from actors.rollout_pool import RolloutPool
from actors.step_times import StepTimes

_log = logging.getLogger(__name__)
_WINDOW_STEPS = 5  # of which the times are added up; one alone may be a checkpoint's, or a slow call's
_WINDOWS_OF_PLENTY = 3  # one after the other, until workers are ended
_WINDOWS_AFTER_FAILURE = 20  # until another worker is tried
_ROOM = 1.1  # more than needed on average: calls are not all of one length
_HURTS = 0.05  # share of the learner's time that it may wait; a goal that a larger pool would hardly come nearer
_TIMEOUT_S = 900.0  # for a worker: nodes that a cluster's autoscaler adds take minutes


def workers_wanted(rolled_out: float, learned: float, least: int, most: int) -> int:
    """The workers whose rollouts take no longer than the learner's own work: the rollouts are as many, whoever does them.

    Args:
        rolled_out: seconds of all workers together in rollouts.
        learned: seconds of the learner, for the same steps, in which it didn't wait.
        least: workers in any case.
        most: workers at most.

    >>> workers_wanted(rolled_out=36.0, learned=10.0, least=1, most=8)
    4
    >>> workers_wanted(rolled_out=36.0, learned=10.0, least=1, most=3)
    3
    """
    return min(most, max(least, ceil(_ROOM * rolled_out / max(learned, 1e-9))))


class PoolSizing:
    """Starts and ends a pool's workers. What they roll out doesn't depend on how many they are, so the student doesn't either.

    Args:
        pool: of the workers.
        least: workers that stay in any case.
        most: workers at most; the least, where their number is given.
        run: name of the run, for the metrics.
    """

    def __init__(self, pool: RolloutPool, least: int, most: int, run: str):
        self._pool, self._least, self._most = pool, least, most
        self._tags = {"run": run}
        self._failures = Counter("field_rollout_sizing_failures", "Rollout workers that did not come.", ("run",))
        self._resizing: asyncio.Task[None] | None = None
        self._plenty = self._pause = 0
        self._begin()

    def _begin(self) -> None:
        """A new window."""
        self._steps, self._learned, self._waited = 0, 0.0, 0.0
        self._rolled_out = self._pool.rolled_out_s

    def after_step(self, times: StepTimes) -> None:
        """Count an optimizer step, and start or end workers if it is time to; the learner doesn't wait for them."""
        if self._least == self._most or (self._resizing and not self._resizing.done()):
            self._begin()
            return
        self._steps += 1
        self._learned += times.update + times.save
        self._waited += times.wait
        if self._steps == _WINDOW_STEPS:
            self._decide()
            self._begin()

    def _decide(self) -> None:
        rolled_out, size = self._pool.rolled_out_s - self._rolled_out, self._pool.size
        wanted = workers_wanted(rolled_out, self._learned, self._least, self._most)
        self._pause = max(0, self._pause - 1)
        self._plenty = self._plenty + 1 if wanted < size else 0
        waits = self._waited > _HURTS * (self._waited + self._learned)
        if (wanted > size and waits and not self._pause) or self._plenty == _WINDOWS_OF_PLENTY:
            self._plenty = 0
            _log.info(
                "%d rollout workers instead of %d: for %.1f s of learning they rolled out for %.1f s, and it waited for %.1f s",
                *(wanted, size, self._learned, rolled_out, self._waited),
            )
            self._resizing = asyncio.create_task(self._resize(wanted))

    async def _resize(self, size: int) -> None:
        try:
            await self._pool.resize(size, _TIMEOUT_S)
        except (TimeoutError, RayError) as error:  # no room, or it could not load: the run goes on with those that there are
            self._failures.inc(1, self._tags)
            self._pause = _WINDOWS_AFTER_FAILURE
            _log.warning("of %d rollout workers %d are there: %s", size, self._pool.size, error)
