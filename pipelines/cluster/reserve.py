"""A run's resources, taken before anything starts: all that it asks for, or nothing.

Two placement groups hold them. The learner and the rollout workers start inside the actors' group, which stays with the run
until its end. Serve places its replicas itself and cannot use a group's bundles; the services' group keeps their room until
they are deployed. A group that doesn't fit yet is what a cluster's autoscaler sees, so reserving also makes a cluster grow.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipelines.cluster.demands import Demand, RunDemands, check_demands
from pipelines.config.errors import ConfigError

_GRACE_S = 30.0  # a run that has just ended gives its resources back within seconds
_MOMENT_S = 1.0  # for a cluster that has room
_PATIENCE_S = 5.0  # after which a person is told what is waited for
_SOMETHING = 1e-3  # Ray refuses an empty bundle, and a process may ask for nothing


Part = tuple[PlacementGroup, Sequence[Demand]]  # a group, and what it holds or waits for


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a run holds of the cluster; the actors' bundles are the learner's, then one per rank that is an actor, then one per
    rollout worker."""

    actors: PlacementGroup
    services: PlacementGroup | None

    def place(self, bundle: int) -> dict[str, Any]:
        """The actor options that start a process in its bundle."""
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(self.actors, placement_group_bundle_index=bundle)}

    def make_room(self) -> None:
        """Give the services' part back, to deploy them into it at once."""
        if self.services:
            remove_placement_group(self.services)

    def release(self) -> None:
        """Give everything back."""
        self.make_room()
        remove_placement_group(self.actors)


def reserve(demands: RunDemands, wait_s: float, say: Callable[[str], None]) -> Reservation:
    """Take what the run asks for; Ray is connected. Waits up to `wait_s` seconds for a busy or a growing cluster.

    Raises:
        ConfigError: says what is missing; nothing is held then.
    """
    if not wait_s:
        total = ray.cluster_resources()
        check_demands(demands.started, total.get("CPU", 0), total.get("GPU", 0), "the cluster")
    services = list(demands.services.values()) if demands.owns_services else []
    reservation = Reservation(_group(demands.actors), _group(services) if services else None)
    parts: list[Part] = [(reservation.actors, demands.actors)]
    if reservation.services:
        parts.append((reservation.services, services))
    try:
        _wait_for(parts, max(wait_s, _GRACE_S), say)
    except BaseException:
        reservation.release()
        raise
    return reservation


def require_room(asked: Sequence[Demand], wait_s: float, say: Callable[[str], None]) -> None:
    """Return once the cluster has room for processes that come to what runs already; they have to be started at once.
    Waits up to `wait_s` seconds for a busy or a growing cluster.

    Raises:
        ConfigError: says what is missing.
    """
    if not asked:
        return
    group = _group(asked)
    try:
        _wait_for([(group, asked)], max(wait_s, _MOMENT_S), say)
    finally:
        remove_placement_group(group)


def _wait_for(parts: Sequence[Part], seconds: float, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + seconds
    for group, _ in parts:
        if group.wait(min(seconds, _PATIENCE_S)):
            continue
        if seconds >= _PATIENCE_S:
            say(f"waiting for resources: {_shortage(parts)}")
        if not group.wait(max(1.0, deadline - time.monotonic())):
            raise ConfigError(f"{_shortage(parts)}; waited {seconds:.0f} s (--wait)")


def _group(parts: Sequence[Demand]) -> PlacementGroup:
    each = [part for part in parts for _ in range(part.count)]
    return placement_group(
        [_bundle(part) for part in each], strategy="PACK", bundle_label_selector=[dict(part.node_labels) for part in each]
    )


def _bundle(demand: Demand) -> dict[str, float]:
    wanted = {"CPU": demand.num_cpus, "GPU": demand.num_gpus}
    return {kind: amount for kind, amount in wanted.items() if amount} or {"CPU": _SOMETHING}


def _shortage(parts: Sequence[Part]) -> str:
    """What the cluster lacks, in one line; what is held of it for these parts already counts as free."""
    asked = [demand for _, part in parts for demand in part]
    nodes = [node for node in ray.nodes() if node["Alive"]]
    for demand in asked:
        if not any(demand.fits(node) for node in nodes):
            return demand.no_node
    free = ray.available_resources()
    held = [demand for group, part in parts if placement_group_table(group)["state"] == "CREATED" for demand in part]
    cpus = free.get("CPU", 0) + sum(demand.count * demand.num_cpus for demand in held)
    gpus = free.get("GPU", 0) + sum(demand.count * demand.num_gpus for demand in held)
    try:
        check_demands(asked, cpus, gpus, "the cluster, beside what others hold,")
    except ConfigError as missing:
        return str(missing)
    return "what is free lies in pieces too small for " + ", ".join(
        f"{d.who} {d.count} x (CPU {d.num_cpus:g}, GPU {d.num_gpus:g})" for d in asked
    )
