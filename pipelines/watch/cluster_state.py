"""What a Ray cluster shows of a run: its actors, the replicas of its services, their queues and repeated calls."""

import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError

import ray
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import ApplicationStatusOverview

from pipelines.cluster.connect import live_actors
from pipelines.config.run import RunConfig

_ANSWER_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """One Serve application.

    Attributes:
        running: replicas that run.
        wanted: replicas that there are in any state: starting, running, ending.
        in_work: calls that replicas compute.
        queued: calls that wait for a replica.
        repeated: calls that were lost and made again.
    """

    running: int
    wanted: int
    in_work: int
    queued: int
    repeated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankState:
    """One rank of the learner.

    Attributes:
        step: optimizer steps that it has done.
        waiting: share of its time in steps in which it waited for the others.
        memory_bytes: the most that it has held, of a GPU's memory or else of the host's.
    """

    step: int
    waiting: float
    memory_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """A run's processes.

    Attributes:
        learner: whether its process is alive.
        workers: rollout workers that are alive.
        workers_wanted: how many rollout workers the run was configured with, or scaled to.
        depth: steps after the current one whose targets are in flight or ready.
        repeated: rollouts that were lost and made again.
        truncated: prompts that were longer than the encoder reads.
        ranks: the learner's, by number, if there are several and they have done a step.
        services: expert, the shared experts or encoder -> its state; only those that are deployed.
    """

    learner: bool
    workers: int
    workers_wanted: int
    depth: int
    repeated: int
    truncated: int
    ranks: Sequence[RankState]
    services: Mapping[str, ServiceState]


def read_cluster(config: RunConfig) -> ClusterState:
    """The run's state on the cluster that Ray is connected to."""
    run = config.run.name
    actors = live_actors()
    alive = [actor.name for actor in actors]
    learners = [actor for actor in actors if actor.name == f"{run}/learner"]
    metrics = Metrics.scrape()
    applications = serve.status().applications
    services = {name: applications.get(config.run.application_name(name)) for name in config.services}
    return ClusterState(
        learner=bool(learners),
        workers=sum(name.startswith(f"{run}/rollout-") for name in alive),
        workers_wanted=_workers(config, learners),
        depth=metrics.total("ray_field_stream_depth", run=run),
        repeated=metrics.total("ray_field_rollout_retries_total", run=run),
        truncated=metrics.total("ray_field_truncated_prompts_total", run=config.run.services_owner),
        ranks=[_rank(run, rank, metrics) for rank in range(config.learner.rank_actors)],
        services={name: _service(config, name, state, metrics) for name, state in services.items() if state is not None},
    )


def _workers(config: RunConfig, learners: Sequence[Any]) -> int:
    """How many rollout workers there should be: the learner's number, once it answers and as long as it does."""
    for learner in learners:
        with suppress(ValueError, RayError):  # it loads, or has just ended
            handle: Any = ray.get_actor(learner.name, learner.ray_namespace)
            return ray.get(handle.rollout_workers.remote(), timeout=_ANSWER_S)
    return config.rollout.workers


def _rank(run: str, rank: int, metrics: "Metrics") -> RankState:
    of = {"run": run, "rank": str(rank)}
    waited, seconds = (metrics.sum(f"ray_field_rank_{name}seconds_total", **of) for name in ("wait_", ""))
    return RankState(
        step=metrics.total("ray_field_rank_step", **of),
        waiting=waited / seconds if seconds else 0.0,
        memory_bytes=metrics.sum("ray_field_rank_memory_bytes", **of),
    )


def _service(config: RunConfig, name: str, application: ApplicationStatusOverview, metrics: "Metrics") -> ServiceState:
    replicas = [item for deployment in application.deployments.values() for item in deployment.replica_states.items()]
    where = {"application": config.run.application_name(name)}
    return ServiceState(
        running=sum(number for state, number in replicas if state == "RUNNING"),
        wanted=sum(number for _, number in replicas),
        in_work=metrics.total("ray_serve_replica_processing_queries", **where),
        queued=metrics.total("ray_serve_deployment_queued_queries", **where),
        repeated=metrics.total("ray_field_call_retries_total", run=config.run.name, service=name),
    )


@dataclass(frozen=True, slots=True)
class Metrics:
    """The samples that the nodes' metrics ports export."""

    samples: Sequence[Sample]

    @staticmethod
    def scrape() -> "Metrics":
        """Ask every living node that Ray is connected to."""
        return Metrics.parsed(
            _page(node["NodeManagerAddress"], node["MetricsExportPort"]) for node in ray.nodes() if node["Alive"]
        )

    @staticmethod
    def parsed(pages: Iterable[str]) -> "Metrics":
        """Pages of Prometheus' text format."""
        families = (family for page in pages for family in text_string_to_metric_families(page))
        return Metrics([sample for family in families for sample in family.samples])

    def sum(self, name: str, **labels: str) -> float:
        """The sum over processes of the samples of a metric that have the given labels."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    def total(self, name: str, **labels: str) -> int:
        """The same of a metric that counts something."""
        return round(self.sum(name, **labels))


def _page(host: str, port: int) -> str:
    """A node's metrics; empty if it doesn't answer: the rest of the screen is worth showing without them."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=_ANSWER_S) as answer:
            return answer.read().decode()
    except (URLError, TimeoutError):
        return ""
