"""A run's services on the cluster: what they are called, deploying and deleting them, and whether standing ones fit."""

import re
from functools import partial
from importlib.metadata import version
from typing import Any

from ray.serve import Application

from actors.journal import CHANGES, rows
from fields.families.quantization import maker
from fields.numerics import device_kind
from pipelines.cluster.fingerprint import fingerprint
from pipelines.config.errors import ConfigError
from pipelines.config.operators import SELF, references
from pipelines.config.own_models import other_models
from pipelines.config.recipe import differences
from pipelines.config.run import ENCODER, SHARED
from pipelines.config.services import ServiceConfig
from pipelines.parts.device import device, sharing_ranks
from pipelines.parts.run_parts import RunParts
from pipelines.parts.traced import traced
from services import applications
from services.client import CallLimits
from services.encoder import encoder_application
from services.encoder_client import EncoderClient
from services.encoders import Encoders
from services.expert import expert_application
from services.expert_access import ExpertAccess
from services.expert_client import ExpertClient
from services.shared_experts import shared_experts_application

_PACKAGES = ("fieldweave", "torch", "diffusers")


class RunServices:
    """The services of a run: its own, or standing ones that it uses."""

    def __init__(self, parts: RunParts):
        self._parts = parts
        self._config = parts.config
        self._limits = CallLimits(timeout_s=parts.config.run.watchdog_s)

    def application_name(self, service: str) -> str:
        """The Serve application of a service."""
        return self._config.run.application_name(service)

    @property
    def names(self) -> list[str]:
        """The Serve applications of all services."""
        return [self.application_name(service) for service in self._config.services]

    def deploy(self, only: list[str] | None = None) -> None:
        """Deploy the services, or some of them; returns when they run."""
        wanted = {name: section for name, section in self._config.services.items() if only is None or name in only}
        autoscaled = [self.application_name(name) for name, section in wanted.items() if section.autoscaling]
        built = {self.application_name(name): self.application(name, section) for name, section in wanted.items()}
        applications.deploy(built, autoscaled=autoscaled)

    def delete(self, only: list[str] | None = None, wait: bool = False) -> None:
        """Delete the services, or some of them; those that are gone are passed over."""
        names = self.names if only is None else [self.application_name(name) for name in only]
        (applications.delete_and_wait if wait else applications.delete)(names)

    def delete_own(self) -> None:
        """Delete what a run of this name has deployed, also experts that came while it went on, and wait till it is gone."""
        came = [row["set"] for row in rows(self._config.folder / CHANGES)]
        experts = {key.split(".")[1] for settings in came for key in settings if key.startswith("experts.")}
        encoder = re.compile(re.escape(self.application_name(ENCODER)) + r"-\w+-[0-9a-f]{6}")  # of a model that came with one
        encoders = filter(encoder.fullmatch, applications.listed())
        applications.delete_and_wait(sorted({*self.names, *map(self.application_name, experts), *encoders}))

    def missing(self) -> list[str]:
        """The services that no standing application holds.

        Raises:
            ConfigError: if one stands that answers otherwise than the run asks for; says where they differ.
        """
        standing = applications.listed()
        absent = [name for name in self._config.services if self.application_name(name) not in standing]
        for name in [name for name in self._config.services if name not in absent]:
            self._require_fitting(name, standing[self.application_name(name)])
        return absent

    def _require_fitting(self, service: str, status: str) -> None:
        application = self.application_name(service)
        if status != "RUNNING":
            raise ConfigError(f"run.services: {application} is {status}; wait, or delete it")
        wanted, found = self.identity(service), applications.identity(application)
        told = {key: value for key, value in found.items() if key != "device"}
        if service == SHARED:  # others may share the base, too
            told["experts"] = {expert: found["experts"].get(expert) for expert in wanted["experts"]}
        if differing := differences(wanted, told):
            raise ConfigError(
                f"run.services: {application} stands with other settings: {'; '.join(differing)}. Use them, or other services"
            )
        self._require_device(service, found["device"])

    def _require_device(self, service: str, standing: str) -> None:
        """Another kind of device is another answer, in its last bits; another model of the kind is warned of when the run
        begins."""
        num_gpus = self._config.services[service].num_gpus
        kind = device(num_gpus).type
        if device_kind(standing) != kind:
            key = ENCODER if service in self._config.encoders else f"experts.{next(iter(self._experts_of(service)))}"
            raise ConfigError(
                f"run.services: {self.application_name(service)} stands on {standing}, and {key}.num_gpus: {num_gpus:g} asks "
                f"for {kind}. Ask for what stands, or use other services"
            )

    def devices(self) -> dict[str, str]:
        """Application -> the device of a replica of it, of services that stand."""
        return {name: applications.identity(name)["device"] for name in self.names}

    def require_standing(self, wait: float = 0.0) -> None:
        """Check that all services of a run stand that has none of its own; they may take so many seconds to come.

        Raises:
            ConfigError: if some don't, or answer otherwise than the run asks for.
        """
        applications.settle(self.names, wait)
        if absent := self.missing():
            raise ConfigError(
                f"run.services: no application {', '.join(self.application_name(name) for name in absent)} runs on this "
                f"cluster; start it: python -m pipelines.serve_experts CONFIG run.services={self._config.run.services}"
            )

    def identity(self, service: str) -> dict[str, Any]:
        """All that decides a service's answers, but for its device, which only its process knows: what runs must agree on."""
        config = self._config
        common = {
            "model": self._model_identity(config.encoders.get(service)),
            "numerics": config.numerics.model_dump(),
            "versions": {name: version(name) for name in _PACKAGES},
        }
        if service in config.encoders:
            return common
        return common | {"experts": {name: self._expert_identity(name) for name in self._experts_of(service)}}

    def _model_identity(self, name: str | None) -> dict[str, Any]:
        """Of a model; None is the run's own. The base's quantization is of learner and rollout workers, each expert has its
        own."""
        model = self._config.model if name is None else other_models(self._config)[name]
        return model.model_dump(mode="json", exclude={"quantization"}) | {"path": fingerprint(model.path)}

    def _experts_of(self, service: str) -> list[str]:
        return list(self._config.shared_experts) if service == SHARED else [service]

    def _expert_identity(self, name: str) -> dict[str, Any]:
        expert = self._config.experts[name]
        named = {other for _, other in references(expert.operator, "") if other != SELF}
        own = self._parts.experts.model_name(name)
        return {
            "model": own and self._model_identity(own),
            "checkpoint": fingerprint(expert.checkpoint) if expert.checkpoint else None,
            "adapter": fingerprint(expert.adapter) if expert.adapter else None,
            "ignore_keys": list(expert.ignore_keys),
            "operator": expert.model_dump(mode="json")["operator"],
            "quantization": [expert.quantization, maker(expert.quantization)],
            "of": {other: self._expert_identity(other) for other in sorted(named)},
        }

    def application(self, service: str, section: ServiceConfig) -> Application:
        """The Serve application of the encoder, of the shared experts, or of one expert by itself."""
        parts, config = self._parts, self._config
        numerics, identity, resources = config.numerics.build(), self.identity(service), section.resources()
        if service in config.encoders:
            owner, cache_bytes = config.run.services_owner, config.encoder.cache_bytes
            build_family = partial(parts.encoder_family, config.encoders[service])
            return encoder_application(build_family, cache_bytes, numerics, owner, identity, resources)
        ranks = sharing_ranks(resources.ranks, device(resources.num_gpus))
        if service == SHARED:
            build_shared = partial(traced, parts, "experts", len(config.routes), parts.shared_field)
            return shared_experts_application(build_shared, numerics, identity, resources, ranks)
        build = partial(traced, parts, f"expert-{service}", 1, partial(parts.field, service))
        return expert_application(build, numerics, identity, resources, ranks)

    def encoders(self) -> Encoders:
        """The encoders of all models."""
        run = self._config.run
        return Encoders(
            {
                model: EncoderClient(run.application_name(service), service, run.name, self._limits)
                for service, model in self._config.encoders.items()
            }
        )

    def expert_clients(self) -> dict[str, ExpertClient]:
        """The client of every expert's application; experts that share an application share its client."""
        by_service = {service: self._expert_client(service) for service in self._config.expert_services}
        return {name: by_service[self._config.service_of(name)] for name in self._config.experts}

    def expert_client(self, name: str) -> ExpertClient:
        """The client of the application that holds an expert."""
        return self._expert_client(self._config.service_of(name))

    def expert_access(self, name: str) -> ExpertAccess:
        """How an expert is reached."""
        return ExpertAccess(client=self.expert_client(name), encoders=self.encoders(), models=self._parts.experts.reads[name])

    def _expert_client(self, service: str) -> ExpertClient:
        shared, run = service == SHARED, self._config.run.name
        return ExpertClient(self.application_name(service), service, run, self._limits, shared=shared)
