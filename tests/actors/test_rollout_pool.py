"""Workers that come and go while calls are made; what cannot come leaves the pool as it was."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError
from waiting import LIMIT_S

from actors.hang_limit import HangLimit
from actors.rollout_pool import RolloutPool

BROKEN, HOMELESS = 3, 13  # numbers of workers that cannot load, and that no node has room for


@ray.remote(num_cpus=0.1)
class Worker:
    def __init__(self, number: int):
        if number == BROKEN:
            raise ValueError("out of memory")
        self._number = number

    def ready(self) -> None: ...

    def generate(self, *arguments) -> int:
        return self._number

    def process(self) -> int:
        return os.getpid()

    def die_once(self, flag: Path) -> int:
        if not flag.exists():
            flag.touch()
            os._exit(1)
        return os.getpid()


def start(number: int):
    return Worker.options(num_cpus=1000 if number == HOMELESS else 0.1).remote(number)


async def answering(pool: RolloutPool, calls: int) -> set[int]:
    return set(await asyncio.gather(*(pool.generate(None, None, None, None, 1.0) for _ in range(calls))))


def test_a_pool_grows_shrinks_and_survives_workers_that_cannot_come(cluster):
    async def live() -> None:
        pool = RolloutPool(start, 1, "pooled", LIMIT_S)
        await pool.ready()
        assert await answering(pool, 4) == {0}
        await pool.resize(3, timeout_s=LIMIT_S)
        assert (pool.size, await answering(pool, 12)) == (3, {0, 1, 2})
        with pytest.raises(RayActorError, match="out of memory"):
            await pool.resize(4, timeout_s=LIMIT_S)
        assert (pool.size, await answering(pool, 12)) == (3, {0, 1, 2})
        await pool.resize(1, timeout_s=LIMIT_S)
        assert (pool.size, await answering(pool, 4)) == (1, {0}), "the last ones went"
        pool.end()

    asyncio.run(live())


def test_a_call_that_kills_its_worker_is_made_again(cluster, tmp_path):
    """By whoever is free: here the worker itself, once Ray has started it again."""
    restarted = Worker.options(num_cpus=0.1, max_restarts=-1)

    async def live() -> None:
        pool = RolloutPool(restarted.remote, 1, "killed", LIMIT_S)
        before, after = [
            (await pool._call("die", lambda worker, flag=flag: [worker.die_once.remote(flag)]))[0][0]
            for flag in (tmp_path, tmp_path / "flag")
        ]
        assert before != after
        assert await answering(pool, 4) == {0}
        pool.end()

    asyncio.run(live())


def test_a_worker_that_hangs_is_started_anew_and_its_call_is_made_again(cluster):
    """Nothing tells a frozen process but that it takes longer than any call has."""
    restarted = Worker.options(num_cpus=0.1, max_restarts=-1)

    async def live() -> None:
        pool = RolloutPool(restarted.remote, 1, "frozen", watchdog_s=3.0)
        pool._starting[0] = 0.0  # of a start that was given up, before the worker came after all
        ((before, _),), _ = [await pool._call("process", lambda worker: [worker.process.remote()]) for _ in range(2)]
        assert not pool._starting, "an answer says that it has started"
        os.kill(before, signal.SIGSTOP)
        calling = pool._call("process", lambda worker: [worker.process.remote()])
        ((after, _),) = await asyncio.wait_for(calling, LIMIT_S)
        assert after != before
        pool.end()

    asyncio.run(live())


@ray.remote(num_cpus=0.1, max_restarts=-1)
class FrozenOnce(Worker.__ray_metadata__.modified_class):
    """Its second process, and no other, hangs while it loads."""

    def __init__(self, number: int, folder: Path):
        super().__init__(number)
        starts = len(list(folder.iterdir()))
        (folder / str(starts)).touch()
        if starts == 1:
            os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.slow
def test_a_worker_that_hangs_while_it_loads_again_is_started_once_more(cluster, tmp_path):
    """After ten times what its first start took, and not after the half hour that a first one may take."""
    starts = tmp_path / "starts"
    starts.mkdir()

    async def live() -> None:
        pool = RolloutPool(lambda number: FrozenOnce.remote(number, starts), 1, "twice frozen", watchdog_s=3.0)
        await pool.ready()
        died = tmp_path / "died"
        await asyncio.wait_for(pool._call("die", lambda worker: [worker.die_once.remote(died)]), LIMIT_S)
        assert len(list(starts.iterdir())) == 3
        pool.end()

    asyncio.run(live())


def test_the_limit_follows_the_longest_answer_of_a_kind_and_doubles_when_it_was_too_short():
    limit = HangLimit(least_s=60.0, first_s=1800.0)
    assert limit.seconds("queries") == 1800.0
    limit.answered("queries", 2.0)
    assert limit.seconds("queries") == 60.0, "never less than the watchdog's time"
    limit.answered("queries", 40.0)
    limit.answered("queries", 7.0)
    assert (limit.seconds("queries"), limit.seconds("generate")) == (400.0, 1800.0)
    for _ in range(3):  # calls that were made together
        limit.reached("queries", 400.0)
    assert limit.seconds("queries") == 800.0
    limit.reached("queries", 800.0)
    assert (limit.seconds("queries"), limit.seconds("generate")) == (1600.0, 1800.0)
    limit.answered("queries", 900.0)
    assert limit.seconds("queries") == 9000.0


def test_a_worker_without_a_place_is_given_up(cluster):
    async def live() -> None:
        pool = RolloutPool(lambda number: start(number + HOMELESS - 1), 1, "cramped", LIMIT_S)
        await pool.ready()
        with pytest.raises(TimeoutError):
            await pool.resize(2, timeout_s=2)
        assert (pool.size, await answering(pool, 4)) == (1, {HOMELESS - 1})
        pool.end()

    asyncio.run(live())
