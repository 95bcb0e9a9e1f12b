"""A run takes all that it asks for, or nothing; real placement groups on the session's cluster of 8 CPUs."""

import re
import threading
import time

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from pipelines.cluster import reserve as module
from pipelines.cluster.demands import Demand, RunDemands
from pipelines.cluster.reserve import require_room, reserve
from pipelines.config.errors import ConfigError

RUN = 0.1 + 2 * 0.1 + 0.1 + 3 * 0.1  # learner, rollouts, encoder, experts


@pytest.fixture(autouse=True)
def _hurry(monkeypatch, cluster):
    monkeypatch.setattr(module, "_GRACE_S", 1.0)
    monkeypatch.setattr(module, "_PATIENCE_S", 1.0)


@pytest.fixture
def free(cluster) -> float:
    """The CPUs that nothing holds, once that number has come to rest: earlier tests give theirs back slowly."""
    before, now = -1.0, ray.available_resources()["CPU"]
    while now != before:
        time.sleep(1.5)
        before, now = now, ray.available_resources()["CPU"]
    return now


def _cpus_become(amount: float) -> bool:
    deadline = time.monotonic() + 30
    while abs(ray.available_resources().get("CPU", 0.0) - amount) > 1e-3:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def test_a_reservation_is_held_in_two_parts_and_given_back(make_config, free):
    reservation = reserve(RunDemands.of(make_config()), 0, print)
    assert _cpus_become(free - RUN)
    assert [bundle["CPU"] for bundle in reservation.actors.bundle_specs] == [0.1, 0.1, 0.1]
    reservation.make_room()
    assert _cpus_become(free - 0.3), "the actors' part stays"
    reservation.release()
    assert _cpus_become(free)


def test_a_process_that_asks_for_nothing_is_placed_too(make_config):
    reservation = reserve(RunDemands.of(make_config("learner.num_cpus=0")), 0, print)
    reservation.release()


def test_a_busy_cluster_is_waited_for_and_then_refused(make_config, free, request):
    other = placement_group([{"CPU": free - 0.5}])
    request.addfinalizer(lambda: remove_placement_group(other))
    assert other.wait(30)
    said: list[str] = []
    with pytest.raises(
        ConfigError,
        match=r"^num_cpus: the run needs 0\.7 \(learner .*; the cluster, beside what others hold, has 0\.5;",
    ):
        reserve(RunDemands.of(make_config()), 0, said.append)
    assert said[0].startswith("waiting for resources: num_cpus: the run needs 0.7")
    assert _cpus_become(0.5), "what was had of it is given back"
    remove_placement_group(other)
    reserve(RunDemands.of(make_config()), 60, said.append).release()
    assert _cpus_become(free)


@pytest.mark.parametrize(
    ("overrides", "wait_s", "message"),
    [
        (["learner.num_cpus=9"], 0, r"num_cpus: the run needs 9\.6 .*; the cluster has 8"),
        (["learner.num_cpus=9"], 1, r"learner: no node has 9 CPU and 0 GPU; waited 1 s \(--wait\)"),
        (["rollout.node_labels.role=rollout"], 0, r"rollout: no node with the labels {'role': 'rollout'} has 0\.1 CPU"),
        (["experts.local_edit.num_gpus=1"], 0, r"num_gpus: the run needs 1 \(experts\.local_edit 1 x 1\); the cluster has 0"),
    ],
)
def test_a_shortage_says_what_is_missing(make_config, overrides, wait_s, message):
    with pytest.raises(ConfigError, match=message):
        reserve(RunDemands.of(make_config(*overrides)), wait_s, print)


def test_room_for_what_comes_is_waited_for_and_not_held(free, request):
    replicas = [Demand("experts.local_edit", 2, 0.4, 0.0)]
    require_room(replicas, 0, print)
    assert _cpus_become(free)
    other = placement_group([{"CPU": free - 0.5}])
    request.addfinalizer(lambda: remove_placement_group(other))
    assert other.wait(30)
    said: list[str] = []
    shortage = "num_cpus: the run needs 0.8 (experts.local_edit 2 x 0.4); the cluster, beside what others hold, has 0.5"
    with pytest.raises(ConfigError, match=f"^{re.escape(shortage)}; waited 2 s"):
        require_room(replicas, 2, said.append)
    assert said == [f"waiting for resources: {shortage}"]
    assert _cpus_become(0.5), "nothing is held, and nothing is waited for any longer"
    remove = threading.Timer(1.5, remove_placement_group, [other])
    remove.start()
    require_room(replicas, 60, said.append)
    remove.join()
    assert _cpus_become(free)


def test_no_node_has_the_labels_that_what_comes_asks_for(cluster):
    with pytest.raises(
        ConfigError, match=r"experts\.late: no node with the labels {'role': 'experts'} has 0\.1 CPU and 0 GPU; "
    ):
        require_room([Demand("experts.late", 1, 0.1, 0.0, {"role": "experts"})], 0, print)
