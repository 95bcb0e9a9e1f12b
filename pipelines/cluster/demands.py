"""What a run asks of the cluster, and whether the cluster has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.config.errors import ConfigError
from pipelines.config.run import ENCODER, SHARED, RunConfig


@dataclass(frozen=True, slots=True)
class Demand:
    """What one kind of process asks of the cluster."""

    who: str
    count: int
    num_cpus: float
    num_gpus: float
    node_labels: Mapping[str, str] = field(default_factory=dict)


def demands(config: RunConfig) -> list[Demand]:
    """Everything that a run starts: the learner, the rollout workers, then the services that are its own."""
    return actor_demands(config) + (list(service_demands(config).values()) if config.run.services is None else [])


def actor_demands(config: RunConfig) -> list[Demand]:
    """The learner's demand and the rollout workers'."""
    parts = (("learner", 1, config.learner), ("rollout", config.rollout.workers, config.rollout))
    return [Demand(who, count, part.num_cpus, part.num_gpus, part.node_labels) for who, count, part in parts]


def service_demands(config: RunConfig) -> dict[str, Demand]:
    """Service -> what it asks for."""
    called = {ENCODER: ENCODER, SHARED: "shared experts"}
    return {
        name: Demand(called.get(name, f"experts.{name}"), part.replicas, part.num_cpus, part.num_gpus, part.node_labels)
        for name, part in config.services.items()
    }


def check_resources(config: RunConfig, cpus: float, gpus: float, cluster: str) -> None:
    """Compare what the run asks for with what the cluster has; raises as `check_demands` does."""
    check_demands(demands(config), cpus, gpus, cluster)


def check_demands(asked: Sequence[Demand], cpus: float, gpus: float, cluster: str) -> None:
    """Compare what processes ask for with what the cluster has.

    Raises:
        ConfigError: says what is missing and who asks for how much.
    """
    for kind, available in (("num_gpus", gpus), ("num_cpus", cpus)):
        total = sum(demand.count * getattr(demand, kind) for demand in asked)
        if total > available + 1e-9:
            parts = ", ".join(f"{d.who} {d.count} x {getattr(d, kind):g}" for d in asked if getattr(d, kind))
            raise ConfigError(f"{kind}: the run needs {total:g} ({parts}); {cluster} has {available:g}")
