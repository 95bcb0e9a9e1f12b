"""A finished or running run as an endpoint: its newest student, its experts, and what the endpoint says about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ray import serve
from ray.serve import Application

from fields import checkpoint
from fields.carriers import Weights
from fields.data.bucket import Bucket
from fields.data.rows import Row
from fields.policy import Policy
from pipelines.cluster.demands import Demand
from pipelines.cluster.deployment import RunServices
from pipelines.config.errors import ConfigError
from pipelines.config.run import STUDENT
from pipelines.config.services import ServiceConfig
from pipelines.parts.asked import columns_of_expert
from pipelines.parts.check_files import check_models
from pipelines.parts.fit import fitted_rollout
from pipelines.parts.run_parts import RunParts
from pipelines.run_folder.changes import recorded_config
from services.applications import HttpAddress, delete, deploy, start
from services.client import CallLimits
from services.encoder_client import EncoderClient
from services.encoders import Encoders
from services.endpoint import EndpointSettings, endpoint_application
from services.expert_client import ExpertClient
from services.image_api import Need
from services.resources import Resources
from services.student import student_application
from services.student_client import StudentClient
from services.studio import Generate, Studio

_ENDPOINT = "endpoint"
_EXAMPLES_A_ROUTE = 6
_PARAMETERS: Mapping[str, Need] = {"source_image": "image", "negative_prompt": "negative_prompt"}  # as a request calls columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is served.

    Attributes:
        parts: of the run.
        checkpoint: the folder whose moving average is the student.
        experts: names of the experts that answer beside it.
        replicas: of the student.
    """

    parts: RunParts
    checkpoint: Path
    experts: tuple[str, ...]
    replicas: int

    @property
    def step(self) -> int:
        """Optimizer steps of the checkpoint."""
        return int(self.checkpoint.name.removeprefix("step-"))

    @property
    def models(self) -> tuple[str, ...]:
        """Ids of the models, the student first."""
        return (STUDENT, *self.experts)

    def demands(self) -> list[Demand]:
        """What its services ask of the cluster."""
        config = self.parts.config
        experts = {name: config.experts[name] for name in self.experts}
        return [
            Demand.of(STUDENT, self.replicas, config.rollout),
            *(Demand.of(encoder, config.encoder.replicas, config.encoder) for encoder in self.encoders),
            *(Demand.of(f"experts.{name}", expert.replicas, expert) for name, expert in experts.items()),
        ]

    @property
    def encoders(self) -> Mapping[str, str | None]:
        """Service of an encoder -> the model that it encodes for, of all models that are read; None is the run's own."""
        read = {None, *(model for name in self.experts for model in self.parts.experts.reads[name])}
        return {service: model for service, model in self.parts.config.encoders.items() if model in read}

    def application_name(self, service: str) -> str:
        """A Serve application of the endpoint; no application of a training run has such a name."""
        return f"{self.parts.config.run.name}@{service}"

    def student(self) -> Policy:
        """The student with the moving average of the checkpoint."""
        student, saved = self.parts.policy(), checkpoint.read(self.checkpoint)
        student.load(Weights.of(saved.step, saved.ema))
        return student


def find_served(folder: Path, with_experts: bool, replicas: int) -> Served:
    """The newest complete checkpoint of a run folder, checked as far as it can be without loading it into services.

    Raises:
        ConfigError: if the folder is no run's, has no checkpoint, or a model or adapter of it is missing or doesn't fit.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is no run folder: it has no config.yaml")
    config = recorded_config(folder)
    newest = checkpoint.newest(folder / "checkpoints")
    if newest is None:
        raise ConfigError(f"{folder} has no complete checkpoint; the first is written after {config.checkpoint.every} steps")
    parts = RunParts(fitted_rollout(config))  # the student answers as it rolled out
    check_models(parts)
    experts = tuple(config.experts) if with_experts else ()
    return Served(parts=parts, checkpoint=newest.absolute(), experts=experts, replicas=replicas)


def endpoint_settings(
    served: Served, *, queue: int, timeout_s: float, most_bytes: int, digest: bytes | None
) -> EndpointSettings:
    """What the endpoint says about a run, with its limits."""
    family = served.parts.family
    width, height, frames = family.default_size
    return EndpointSettings(
        run=served.parts.config.run.name,
        step=served.step,
        models={model: _needs(served.parts, model) for model in served.models},
        edits=family.source != "none",
        size=f"{width}x{height}",
        frames=frames,
        examples=_examples(served.parts),
        queue=queue,
        timeout_s=timeout_s,
        most_bytes=most_bytes,
        digest=digest,
    )


def _needs(parts: RunParts, model: str) -> tuple[Need, ...]:
    """What a request must have for a model: an expert's operator wants it, or the family of all of them."""
    columns = set() if model == STUDENT else set(columns_of_expert(parts, model))
    if parts.family.source == "required":
        columns.add("source_image")
    return tuple(parameter for column, parameter in _PARAMETERS.items() if column in columns)


def _examples(parts: RunParts) -> list[Row]:
    """The first rows of each route whose data is at hand; the endpoint doesn't need them."""
    buckets = [Bucket(route.data) for route in parts.config.routes.values() if route.data.is_file()]
    return [bucket[n] for bucket in buckets for n in range(min(_EXAMPLES_A_ROUTE, len(bucket)))]


def start_endpoint(served: Served, settings: EndpointSettings, http: HttpAddress) -> None:
    """Deploy encoder, student and experts, then the endpoint before them; returns when it answers.

    Raises:
        RuntimeError: if another run is served already, Serve runs without a proxy, or an application fails to start.
    """
    config, services = served.parts.config, RunServices(served.parts)
    sections: dict[str, ServiceConfig] = {name: config.experts[name] for name in served.experts}
    sections |= dict.fromkeys(served.encoders, config.encoder)
    applications = {name: services.application(name, section) for name, section in sections.items()}
    applications[STUDENT] = _student(served)
    _require_alone(config.run.name)
    start(http)
    deploy(
        {served.application_name(service): built for service, built in applications.items()},
        autoscaled=[served.application_name(name) for name, section in sections.items() if section.autoscaling],
    )
    build_studio = partial(_studio, served, settings)
    deploy({served.application_name(_ENDPOINT): endpoint_application(build_studio, settings)}, route_prefix="/")


def _student(served: Served) -> Application:
    rollout = served.parts.config.rollout
    resources = Resources(
        replicas=served.replicas, num_cpus=rollout.num_cpus, num_gpus=rollout.num_gpus, node_labels=rollout.node_labels
    )
    return student_application(served.student, served.parts.config.numerics.build(), resources)


def _require_alone(run: str) -> None:
    """A cluster's proxy has one root, so it shows one endpoint; that of the same run is replaced."""
    for name in serve.status().applications:
        other, _, service = name.rpartition("@")
        if service == _ENDPOINT and other != run:
            raise RuntimeError(f"run {other} is served on this cluster already")


def stop_endpoint(served: Served) -> None:
    """Delete the applications of `start_endpoint`."""
    delete([served.application_name(service) for service in (_ENDPOINT, *served.models, *served.encoders)])


def _studio(served: Served, settings: EndpointSettings) -> Studio:
    limits = CallLimits(concurrency=settings.queue, timeout_s=settings.timeout_s, patience_s=settings.timeout_s)
    run, parts = served.parts.config.run.name, served.parts
    encoders = {
        model: EncoderClient(served.application_name(service), service, run, limits)
        for service, model in served.encoders.items()
    }
    student = StudentClient(served.application_name(STUDENT), STUDENT, run, limits)
    generate: dict[str, Generate] = {STUDENT: student.generate}
    for name in served.experts:
        expert = ExpertClient(served.application_name(name), name, run, limits, shared=False)
        generate[name] = partial(expert.generate, name)
    return Studio(Encoders(encoders), generate, parts.experts.reads, parts.family, parts.grid)
