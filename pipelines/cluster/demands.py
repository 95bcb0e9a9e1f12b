"""What a run asks of the cluster, and whether the cluster has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.config.errors import ConfigError
from pipelines.config.run import RunConfig
from pipelines.config.services import ExpertConfig, ServiceConfig
from pipelines.config.training import LearnerConfig, RolloutConfig
from pipelines.parts.footprint import who_of


@dataclass(frozen=True, slots=True)
class Demand:
    """What one kind of process asks of the cluster.

    Attributes:
        who: asks.
        count: of such processes; a process of several ranks counts once.
        num_cpus: of each, its ranks together, which are on one node.
        num_gpus: the same.
        node_labels: that its node must carry.
    """

    who: str
    count: int
    num_cpus: float
    num_gpus: float
    node_labels: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(who: str, count: int, section: LearnerConfig | RolloutConfig | ServiceConfig) -> "Demand":
        """What so many processes of a section of the configuration ask for."""
        ranks = (
            section.ranks if isinstance(section, ExpertConfig | RolloutConfig) else 1
        )  # each of the learner's is a process of its own
        return Demand(who, count, ranks * section.num_cpus, ranks * section.num_gpus, section.node_labels)

    def fits(self, node: Mapping[str, Any]) -> bool:
        """Whether a node, as `ray.nodes` describes it, has what one process asks for, busy or not."""
        has = node["Resources"]
        enough = has.get("CPU", 0) >= self.num_cpus and has.get("GPU", 0) >= self.num_gpus
        return enough and self.node_labels.items() <= node["Labels"].items()

    @property
    def no_node(self) -> str:
        """The line that says that no node has it."""
        labels = f" with the labels {dict(self.node_labels)}" if self.node_labels else ""
        return f"{self.who}: no node{labels} has {self.num_cpus:g} CPU and {self.num_gpus:g} GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDemands:
    """What a run asks for.

    Attributes:
        learner: one process, which needs no GPU where it has ranks.
        ranks: its ranks, where they have processes of their own.
        rollout: the workers that it begins with.
        services: service -> its replicas, of its own services and of standing ones alike.
        owns_services: whether the run starts them.
    """

    learner: Demand
    ranks: Demand | None
    rollout: Demand
    services: Mapping[str, Demand]
    owns_services: bool

    @staticmethod
    def of(config: RunConfig) -> "RunDemands":
        """What a configuration asks for."""
        services = {
            name: Demand.of(name if name in config.encoders else who_of(name), section.replicas, section)
            for name, section in config.services.items()
        }
        learner, alone = Demand.of("learner", 1, config.learner), not config.learner.rank_actors
        return RunDemands(
            learner=learner if alone else replace(learner, num_gpus=0),
            ranks=None if alone else Demand.of("learner.ranks", config.learner.ranks, config.learner),
            rollout=Demand.of("rollout", config.rollout.workers, config.rollout),
            services=services,
            owns_services=config.run.services is None,
        )

    @property
    def actors(self) -> list[Demand]:
        """The learner's demand, then its ranks' and the rollout workers'."""
        return [self.learner, *([self.ranks] if self.ranks else []), self.rollout]

    @property
    def started(self) -> list[Demand]:
        """Everything that the run starts: the actors, then the services that are its own."""
        return self.actors + (list(self.services.values()) if self.owns_services else [])

    @property
    def in_one_process(self) -> Demand:
        """What the reference loop asks of its machine: it has everything on one GPU, if anything is to be on one."""
        on_gpu = any(demand.num_gpus for demand in (*self.actors, *self.services.values()))
        return Demand("the reference loop", 1, num_cpus=1, num_gpus=float(on_gpu))


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
