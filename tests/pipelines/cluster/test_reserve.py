"""A run takes all that it asks for, or nothing; real placement groups on the session's cluster of 8 CPUs."""

import re
import threading
from collections.abc import Callable

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.state import list_actors
from waiting import LIMIT_S, wait_for

from pipelines.cluster import reserve as module
from pipelines.cluster.demands import Demand, RunDemands
from pipelines.cluster.reserve import require_room, reserve
from pipelines.config.errors import ConfigError
from services.applications import listed

RUN = 0.1 + 2 * 0.1 + 0.1 + 3 * 0.1  # learner, rollouts, encoder, experts


@pytest.fixture
def hurry(monkeypatch) -> None:
    """A shortage is final soon."""
    monkeypatch.setattr(module, "_GRACE_S", 1.0)
    monkeypatch.setattr(module, "_PATIENCE_S", 1.0)


@pytest.fixture
def free(cluster) -> float:
    """The CPUs that nothing holds, once what earlier tests held has been given back."""
    wait_for(
        lambda: {group["state"] for group in placement_group_table().values()} <= {"REMOVED"},
        lambda: f"the end of every group: {placement_group_table()}",
    )
    wait_for(lambda: set(listed().values()) <= {"RUNNING"}, lambda: f"the end of what is deleted: {listed()}")
    _wait_for_cpus(lambda: ray.cluster_resources()["CPU"] - _held())
    return ray.available_resources()["CPU"]


def _held() -> float:
    """The CPUs of all actors that live."""
    address = ray.get_runtime_context().gcs_address
    alive = list_actors(address=address, filters=[("state", "=", "ALIVE")], limit=1000, detail=True)
    return sum((actor.required_resources or {}).get("CPU", 0.0) for actor in alive)


def _wait_for_cpus(amount: Callable[[], float]) -> None:
    def free() -> float:
        return ray.available_resources().get("CPU", 0.0)

    wait_for(lambda: abs(free() - amount()) < 1e-3, lambda: f"{amount():g} free CPUs; {free():g} are")


def test_a_reservation_is_held_in_two_parts_and_given_back(make_config, free):
    reservation = reserve(RunDemands.of(make_config()), 0, print)
    _wait_for_cpus(lambda: free - RUN)
    assert [bundle["CPU"] for bundle in reservation.actors.bundle_specs] == [0.1, 0.1, 0.1]
    reservation.make_room()
    _wait_for_cpus(lambda: free - 0.3)  # the actors' part stays
    reservation.release()
    _wait_for_cpus(lambda: free)


def test_a_process_that_asks_for_nothing_is_placed_too(cluster, make_config):
    reservation = reserve(RunDemands.of(make_config("learner.num_cpus=0")), 0, print)
    reservation.release()


def test_a_busy_cluster_is_waited_for_and_then_refused(make_config, free, hurry, request):
    other = placement_group([{"CPU": free - 0.5}])
    request.addfinalizer(lambda: remove_placement_group(other))
    assert other.wait(LIMIT_S)
    said: list[str] = []
    with pytest.raises(
        ConfigError,
        match=r"^num_cpus: the run needs 0\.7 \(learner .*; the cluster, beside what others hold, has 0\.5;",
    ):
        reserve(RunDemands.of(make_config()), 0, said.append)
    assert said[0].startswith("waiting for resources: num_cpus: the run needs 0.7")
    _wait_for_cpus(lambda: 0.5)  # what was had of it is given back
    remove_placement_group(other)
    reserve(RunDemands.of(make_config()), LIMIT_S, said.append).release()
    _wait_for_cpus(lambda: free)


@pytest.mark.parametrize(
    ("overrides", "wait_s", "message"),
    [
        (["learner.num_cpus=9"], 0, r"num_cpus: the run needs 9\.6 .*; the cluster has 8"),
        (["learner.num_cpus=9"], 1, r"learner: no node has 9 CPU and 0 GPU; waited 1 s \(--wait\)"),
        (["rollout.node_labels.role=rollout"], 0, r"rollout: no node with the labels {'role': 'rollout'} has 0\.1 CPU"),
        (["experts.local_edit.num_gpus=1"], 0, r"num_gpus: the run needs 1 \(experts\.local_edit 1 x 1\); the cluster has 0"),
    ],
)
def test_a_shortage_says_what_is_missing(cluster, make_config, hurry, overrides, wait_s, message):
    with pytest.raises(ConfigError, match=message):
        reserve(RunDemands.of(make_config(*overrides)), wait_s, print)


def test_room_for_what_comes_is_waited_for_and_not_held(free, hurry, request):
    replicas = [Demand("experts.local_edit", 2, 0.4, 0.0)]
    require_room(replicas, LIMIT_S, print)
    _wait_for_cpus(lambda: free)
    other = placement_group([{"CPU": free - 0.5}])
    request.addfinalizer(lambda: remove_placement_group(other))
    assert other.wait(LIMIT_S)
    said: list[str] = []
    shortage = "num_cpus: the run needs 0.8 (experts.local_edit 2 x 0.4); the cluster, beside what others hold, has 0.5"
    with pytest.raises(ConfigError, match=f"^{re.escape(shortage)}; waited 2 s"):
        require_room(replicas, 2, said.append)
    assert said == [f"waiting for resources: {shortage}"]
    _wait_for_cpus(lambda: 0.5)  # nothing is held, and nothing is waited for any longer
    remove = threading.Timer(1.5, remove_placement_group, [other])
    remove.start()
    require_room(replicas, LIMIT_S, said.append)
    remove.join()
    _wait_for_cpus(lambda: free)


def test_no_node_has_the_labels_that_what_comes_asks_for(cluster, hurry):
    with pytest.raises(
        ConfigError, match=r"experts\.late: no node with the labels {'role': 'experts'} has 0\.1 CPU and 0 GPU; "
    ):
        require_room([Demand("experts.late", 1, 0.1, 0.0, {"role": "experts"})], 0, print)


def test_several_ranks_have_the_learners_gpus_and_bundles_before_the_workers(make_config):
    demands = RunDemands.of(make_config("learner.ranks=3", "learner.num_gpus=1"))
    asked = [(demand.who, demand.count, demand.num_gpus) for demand in demands.actors]
    assert asked == [("learner", 1, 0), ("learner.ranks", 3, 1), ("rollout", 2, 0)]
    alone = RunDemands.of(make_config("learner.num_gpus=1")).actors
    assert [(demand.who, demand.count, demand.num_gpus) for demand in alone] == [("learner", 1, 1), ("rollout", 2, 0)]
