"""A pool that finds its own size, with workers that sleep as long as a model would compute."""

import asyncio
from collections.abc import Callable

import metrics_port
import pytest
import ray
from waiting import LIMIT_S, wait_for

from actors.pool_sizing import PoolSizing, workers_wanted
from actors.rollout_pool import RolloutPool
from actors.step_times import StepTimes

UPDATE_S, ROLLOUT_S = 0.2, 0.1
BROKEN = 2  # the number of a worker that cannot load
MOST_STEPS = 600  # only a size that never comes takes so many


@ray.remote(num_cpus=0.01)
class Worker:
    def __init__(self, number: int, broken: bool):
        if broken and number >= BROKEN:
            raise ValueError("out of memory")

    def ready(self) -> None: ...

    async def queries(self, *arguments) -> None:
        await asyncio.sleep(ROLLOUT_S)


def pool_of(size: int, broken: bool = False) -> RolloutPool:
    return RolloutPool(lambda number: Worker.remote(number, broken), size, "sized", LIMIT_S)


async def learn(pool: RolloutPool, sizing: PoolSizing, calls: int, until: Callable[[], bool]) -> None:
    """Steps of so many rollouts, and of a learner whose update is told to take 0.2 s; it waits for what the workers have not
    done by then."""
    for _ in range(MOST_STEPS):
        if until():
            return
        wait = max(0.0, calls * ROLLOUT_S / pool.size - UPDATE_S)
        await asyncio.gather(*(pool.queries((None,), [None], None) for _ in range(calls)))
        sizing.after_step(StepTimes(wait=wait, update=UPDATE_S))
    raise AssertionError(f"{pool.size} workers after {MOST_STEPS} steps")


def after_steps(number: int) -> Callable[[], bool]:
    steps = iter(range(number))
    return lambda: next(steps, None) is None


def test_a_run_of_one_worker_finds_its_size_and_gives_back_what_it_doesnt_need(cluster):
    """Eight rollouts of 0.1 s to an update of 0.2 s take four workers, and one more as calls are not free; two take two."""

    async def live() -> None:
        pool = pool_of(1)
        sizing = PoolSizing(pool, 1, 8, "sized")
        await pool.ready()
        await learn(pool, sizing, 8, until=lambda: pool.size >= 5)
        await learn(pool, sizing, 8, until=after_steps(20))
        assert pool.size >= 5, "they stay"
        await learn(pool, sizing, 2, until=lambda: pool.size < 5)
        assert pool.size >= 2
        pool.end()

    asyncio.run(live())


@pytest.mark.slow
def test_a_worker_that_cannot_come_is_counted_and_not_tried_again_at_once(cluster, caplog):
    def failures() -> int:
        return caplog.text.count(f"rollout workers {BROKEN} are there: ")

    async def live() -> None:
        pool = pool_of(1, broken=True)
        sizing = PoolSizing(pool, 1, 8, "cramped")
        await pool.ready()
        await learn(pool, sizing, 8, until=lambda: failures() > 0)
        assert pool.size == BROKEN, "those that could load are there"
        await learn(pool, sizing, 8, until=after_steps(12))
        assert failures() == 1
        pool.end()

    asyncio.run(live())
    assert "out of memory" in caplog.text
    metric = "ray_field_rollout_sizing_failures_total", 'run="cramped"'
    wait_for(lambda: metrics_port.values(metrics_port.shown(), *metric) == [1], "the failure on the metrics port")


def test_a_number_that_is_given_stays(cluster):
    async def live() -> None:
        pool = pool_of(1)
        sizing = PoolSizing(pool, 1, 1, "fixed")
        await pool.ready()
        await learn(pool, sizing, 4, until=after_steps(6))
        assert pool.size == 1
        pool.end()

    asyncio.run(live())


@pytest.mark.parametrize(
    ("rolled_out", "learned", "wanted"), [(0.0, 1.0, 2), (2.0, 1.0, 3), (36.0, 10.0, 4), (1e6, 1.0, 8), (1.0, 0.0, 8)]
)
def test_workers_wanted_are_bounded(rolled_out, learned, wanted):
    assert workers_wanted(rolled_out, learned, least=2, most=8) == wanted
