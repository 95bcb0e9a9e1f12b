"""The client against real Serve applications that are slow, broken or dying."""

import asyncio
import os
import sys

import pytest
import ray
from ray import cloudpickle, serve

from services.applications import delete, deploy
from services.client import CallLimits, ServiceClient

APPLICATION = "moody"
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas cannot import a test module


class Moody:
    """Answers, hangs, dies and complains on demand."""

    def __init__(self):
        self._running = 0
        self._most = 0
        self._calls = 0

    async def double(self, x):
        return 2 * x

    async def count(self) -> int:
        self._calls += 1
        return self._calls

    async def linger(self) -> int:
        self._running += 1
        self._most = max(self._most, self._running)
        await asyncio.sleep(0.1)
        self._running -= 1
        return self._most

    async def generate(self) -> int:
        self._calls += 1
        await asyncio.sleep(1.0)
        return self._calls

    async def hang(self) -> None:
        await asyncio.Event().wait()

    async def hang_once(self, flag: str) -> str:
        if not os.path.exists(flag):
            open(flag, "w").close()
            await asyncio.Event().wait()
        return "awake"

    async def die_once(self, flag: str) -> int:
        if not os.path.exists(flag):
            open(flag, "w").close()
            os._exit(1)
        return os.getpid()

    async def complain(self):
        self._calls += 1
        raise ValueError("sample 7 at t = 0.5")

    async def check_health(self) -> None:
        pass


@pytest.fixture(scope="module")
def moody(cluster):
    deployment = serve.deployment(Moody, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})  # type: ignore[arg-type]
    deploy({APPLICATION: deployment.bind()})
    yield
    delete([APPLICATION])


class MoodyClient(ServiceClient):
    """Asks whatever a test wants; `generate` as long as it takes."""

    async def ask(self, method: str, *arguments):
        patience = None if method == "generate" else self._limits.timeout_s
        answer, reference = await self._call(lambda: getattr(self._handle, method).remote(*arguments), patience)
        assert await reference == answer
        return answer


def call(limits: CallLimits, *calls: tuple, together: bool = False) -> list:
    async def run() -> list:
        client = MoodyClient(APPLICATION, "moody", "test", limits)
        if together:
            return await asyncio.gather(*(client.ask(*one) for one in calls))
        return [await client.ask(*one) for one in calls]

    return asyncio.run(run())


def test_an_object_reference_is_resolved_at_the_replica(moody):
    assert call(CallLimits(), ("double", ray.put(21))) == [42]


def test_concurrency_is_limited_by_the_client(moody):
    most = call(CallLimits(concurrency=3), *[("linger",)] * 9, together=True)
    assert max(most) == 3


def test_a_hanging_call_times_out_and_is_repeated(moody, tmp_path):
    assert call(CallLimits(timeout_s=1.0), ("hang_once", str(tmp_path / "flag"))) == ["awake"]


def test_a_long_rollout_is_not_repeated(moody):
    (before,) = call(CallLimits(), ("count",))
    assert call(CallLimits(timeout_s=0.3, patience_s=0.1), ("generate",)) == [before + 1]
    assert call(CallLimits(), ("count",)) == [before + 2], "it was asked once"


def test_a_call_that_kills_its_replica_is_repeated_on_the_next(moody, tmp_path):
    before, after = call(CallLimits(), ("die_once", __file__), ("die_once", str(tmp_path / "flag")))
    assert before != after


def test_an_error_of_the_service_is_raised_at_once(moody):
    (before,) = call(CallLimits(), ("count",))
    with pytest.raises(ValueError, match="sample 7"):
        call(CallLimits(), ("complain",))
    assert call(CallLimits(), ("count",)) == [before + 2], "the call was repeated"


def test_patience_ends(moody):
    with pytest.raises(TimeoutError):
        call(CallLimits(timeout_s=0.3, patience_s=1.0), ("hang",))
