"""Workers that come and go while calls are made; what cannot come leaves the pool as it was."""

import asyncio
import os
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError
from waiting import LIMIT_S

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
        pool = RolloutPool(start, 1, "pooled")
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
        pool = RolloutPool(restarted.remote, 1, "killed")
        before, after = [
            (await pool._call(lambda worker, flag=flag: worker.die_once.remote(flag)))[0]
            for flag in (tmp_path, tmp_path / "flag")
        ]
        assert before != after
        assert await answering(pool, 4) == {0}
        pool.end()

    asyncio.run(live())


def test_a_worker_without_a_place_is_given_up(cluster):
    async def live() -> None:
        pool = RolloutPool(lambda number: start(number + HOMELESS - 1), 1, "cramped")
        await pool.ready()
        with pytest.raises(TimeoutError):
            await pool.resize(2, timeout_s=2)
        assert (pool.size, await answering(pool, 4)) == (1, {HOMELESS - 1})
        pool.end()

    asyncio.run(live())
