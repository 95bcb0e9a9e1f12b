"""Replicas come and go while those that stay go on, by command or by Serve's own autoscaler."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ray import cloudpickle, serve
from waiting import LIMIT_S, wait_for

from services.applications import delete_and_wait, deploy, listed, replicas, scale
from services.resources import Resources

APPLICATION = "scaled"
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas cannot import a test module


class Sleeper:
    """Says which process it is, after a while; a file of its name in `folder` says so at once."""

    async def who(self, seconds: float, folder: Path | None = None) -> int:
        if folder:
            (folder / str(os.getpid())).touch()
        await asyncio.sleep(seconds)
        return os.getpid()


class Gated(Sleeper):
    """Isn't there as long as a file is."""

    async def __init__(self, gate: Path):
        while gate.exists():
            await asyncio.sleep(0.1)


def start(resources: Resources, autoscaled: tuple[str, ...] = ()) -> None:
    deployment = serve.deployment(name="sleeper", **resources.deployment_options())(Sleeper)
    deploy({APPLICATION: deployment.bind()}, autoscaled=autoscaled)


@pytest.fixture(autouse=True)
def _deleted(cluster) -> Iterator[None]:
    yield
    delete_and_wait([APPLICATION])


def processes(calls: int, seconds: float, folder: Path | None = None) -> set[int]:
    """The processes that answer calls made together."""
    handle = serve.get_app_handle(APPLICATION)
    return {response.result() for response in [handle.who.remote(seconds, folder) for _ in range(calls)]}


def test_scaling_up_and_down_keeps_the_process_that_stays(tmp_path):
    start(Resources(num_cpus=0.1))
    (first,) = processes(4, 0.0)
    scale(APPLICATION, 3, timeout_s=LIMIT_S)
    assert replicas(APPLICATION) == 3
    three = {first}

    def all_have_answered() -> bool:
        three.update(processes(12, 0.2))
        return len(three) >= 3

    wait_for(all_have_answered, lambda: f"answers of three processes; {three} have answered")
    wait_for(lambda: first in processes(12, 0.2), "an answer of the old process: it goes on")
    with ThreadPoolExecutor(1) as pool:
        during = pool.submit(processes, 12, 2.0, tmp_path)
        wait_for(lambda: len(list(tmp_path.iterdir())) > 1, "calls at work in more than one process", every_s=0.05)
        scale(APPLICATION, 1, timeout_s=LIMIT_S)
        answered = during.result()
    assert len(three) == 3
    assert answered <= three, "those that were asked to end finished what they had been asked"
    (last,) = processes(4, 0.0)
    assert last in three, "the one that stays is none that was started again"


def test_an_application_whose_replica_is_being_replaced_can_be_scaled(tmp_path):
    """By as many as it needs to be up again, say."""
    gate = tmp_path / "closed"
    deployment = serve.deployment(name="sleeper", **Resources(num_cpus=0.1).deployment_options())(Gated)
    deploy({APPLICATION: deployment.bind(gate)})
    gate.touch()
    (lost,) = processes(1, 0.0)
    os.kill(lost, signal.SIGKILL)
    wait_for(lambda: listed()[APPLICATION] != "RUNNING", "Serve to notice that the replica is gone")
    with pytest.raises(TimeoutError, match=r"0 of 2 replicas of scaled run after 1 s"):
        scale(APPLICATION, 2, timeout_s=1)
    gate.unlink()
    wait_for(lambda: replicas(APPLICATION) == 2, "two replicas")


def test_a_number_that_there_is_no_room_for_can_be_taken_back():
    start(Resources(num_cpus=5))  # of eight
    with pytest.raises(TimeoutError, match=r"1 of 2 replicas of scaled run after 1 s"):
        scale(APPLICATION, 2, timeout_s=1)
    scale(APPLICATION, 1, timeout_s=LIMIT_S)
    assert len(processes(4, 0.0)) == replicas(APPLICATION) == 1
    delete_and_wait([APPLICATION])
    with pytest.raises(ValueError, match="scaled does not run"):
        scale(APPLICATION, 1, timeout_s=LIMIT_S)


@pytest.mark.slow  # a number that is asked for is reached above
def test_serve_itself_adds_a_replica_for_a_queue():
    start(Resources(num_cpus=0.1, most_replicas=2, target_calls=1.0), autoscaled=(APPLICATION,))
    (first,) = processes(4, 0.0)
    assert replicas(APPLICATION) == 1
    wait_for(lambda: first in processes(8, 1.0) and replicas(APPLICATION) == 2, "a second replica for a queue of 8 calls")
    wait_for(lambda: listed()[APPLICATION] == "RUNNING", lambda: f"the end of scaling: {listed()}")
    with pytest.raises(ValueError, match="scaled is scaled by Serve itself"):
        scale(APPLICATION, 3, timeout_s=1)
