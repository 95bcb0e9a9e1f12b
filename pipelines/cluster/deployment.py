"""A run's services as Serve applications: what they are called, what decides their answers, who deploys and deletes them.

A run has services of its own, deployed at its start and deleted at its end, or (`run.services`) uses standing ones, which
several runs share. Standing services are adopted when all that decides their answers is what the run asks for.
"""

from functools import partial
from importlib.metadata import version
from typing import Any

from ray.serve import Application

from actors.journal import CHANGES, rows
from pipelines.cluster.fingerprint import fingerprint
from pipelines.config.errors import ConfigError
from pipelines.config.operators import SELF, references
from pipelines.config.recipe import differences
from pipelines.config.run import ENCODER, SHARED, RunConfig
from pipelines.config.services import Service
from pipelines.parts import build
from services import applications
from services.client import CallLimits
from services.encoder import encoder_application
from services.encoder_client import EncoderClient
from services.expert import expert_application
from services.expert_client import ExpertClient
from services.resources import Autoscaling, Resources
from services.shared_experts import shared_experts_application

_PACKAGES = ("fieldweave", "torch", "diffusers")


def application_name(config: RunConfig, service: str) -> str:
    """The Serve application of one of the run's services; a standing one never has the name of a run's own."""
    return f"{config.run.services}:{service}" if config.run.services else f"{config.run.name}-{service}"


def owner(config: RunConfig) -> str:
    """What the services' own metrics name as their run: the run, or the standing set, which no single run owns."""
    return config.run.services or config.run.name


def deploy(config: RunConfig, only: list[str] | None = None) -> None:
    """Deploy a run's services, or some of them; returns when they run."""
    wanted = {name: section for name, section in config.services.items() if only is None or name in only}
    built = {application_name(config, name): application(config, name, section) for name, section in wanted.items()}
    autoscaled = [application_name(config, name) for name, section in wanted.items() if section.autoscaling]
    applications.deploy(built, autoscaled=autoscaled)


def delete(config: RunConfig, only: list[str] | None = None, wait: bool = False) -> None:
    """Delete a run's services, or some of them; those that are gone are passed over."""
    names = [application_name(config, name) for name in (config.services if only is None else only)]
    (applications.delete_and_wait if wait else applications.delete)(names)


def delete_own(config: RunConfig) -> None:
    """Delete what a run of this name has deployed, also experts that came while it went on, and wait till it is gone."""
    known = {application_name(config, service) for service in config.services}
    came = [row["set"] for row in rows(config.folder / CHANGES)]
    experts = {key.split(".")[1] for settings in came for key in settings if key.startswith("experts.")}
    applications.delete_and_wait(sorted(known | {application_name(config, expert) for expert in experts}))


def missing(config: RunConfig) -> list[str]:
    """The services that no standing application holds.

    Raises:
        ConfigError: if one stands that answers otherwise than the run asks for; says where they differ.
    """
    standing = applications.listed()
    absent = [name for name in config.services if application_name(config, name) not in standing]
    for name in [name for name in config.services if name not in absent]:
        if (status := standing[application_name(config, name)]) != "RUNNING":
            raise ConfigError(f"run.services: {application_name(config, name)} is {status}; wait, or delete it")
        wanted, found = identity(config, name), applications.identity(application_name(config, name))
        if name == SHARED:  # others may share the base, too
            found = {**found, "experts": {expert: found["experts"].get(expert) for expert in wanted["experts"]}}
        if differing := differences(wanted, found):
            raise ConfigError(
                f"run.services: {application_name(config, name)} stands with other settings: {'; '.join(differing)}. "
                "Use them, or other services"
            )
    return absent


def require_standing(config: RunConfig) -> None:
    """Check that all services of a run stand that has none of its own.

    Raises:
        ConfigError: if some don't, or answer otherwise than the run asks for.
    """
    if absent := missing(config):
        names = ", ".join(application_name(config, name) for name in absent)
        raise ConfigError(
            f"run.services: no application {names} runs on this cluster; "
            f"start it: python -m pipelines.serve_experts CONFIG run.services={config.run.services}"
        )


def identity(config: RunConfig, service: str) -> dict[str, Any]:
    """All that decides a service's answers, but for the kind of processor: what runs must agree on to share it."""
    model = config.model.model_dump(mode="json") | {"path": fingerprint(config.model.path)}
    common = {"model": model, "threads": config.run.threads, "versions": {name: version(name) for name in _PACKAGES}}
    if service == ENCODER:
        return common
    experts = list(config.shared_experts) if service == SHARED else [service]
    return common | {"experts": {name: _expert_identity(config, name) for name in experts}}


def _expert_identity(config: RunConfig, name: str) -> dict[str, Any]:
    expert = config.experts[name]
    named = {other for _, other in references(expert.operator, "") if other != SELF}
    return {
        "checkpoint": fingerprint(expert.checkpoint) if expert.checkpoint else None,
        "adapter": fingerprint(expert.adapter) if expert.adapter else None,
        "ignore_keys": list(expert.ignore_keys),
        "operator": expert.model_dump(mode="json")["operator"],
        "of": {other: _expert_identity(config, other) for other in sorted(named)},
    }


def application(config: RunConfig, service: str, section: Service) -> Application:
    """The Serve application of the encoder, of the shared experts, or of one expert by itself."""
    threads, asked = config.run.threads, _resources(section)
    if service == ENCODER:
        build_family = partial(build.family, config, section.num_gpus)
        return encoder_application(
            build_family, config.encoder.cache_bytes, threads, owner(config), identity(config, service), asked
        )
    if service == SHARED:
        return shared_experts_application(partial(build.shared_field, config), threads, identity(config, service), asked)
    return expert_application(partial(build.field, config, service), threads, identity(config, service), asked)


def _resources(section: Service) -> Resources:
    """What a service gets of the cluster."""
    autoscaling = section.autoscaling
    return Resources(
        replicas=section.replicas,
        autoscaling=Autoscaling(most=autoscaling.most, target=autoscaling.target) if autoscaling else None,
        num_cpus=section.num_cpus,
        num_gpus=section.num_gpus,
        node_labels=section.node_labels,
    )


def encoder_client(config: RunConfig) -> EncoderClient:
    """A client of the run's encoder."""
    return EncoderClient(application_name(config, ENCODER), ENCODER, config.run.name, CallLimits())


def expert_clients(config: RunConfig) -> dict[str, ExpertClient]:
    """The client of every expert's application; experts that share an application share its client."""
    by_service = {service: _expert_client(config, service) for service in config.services if service != ENCODER}
    return {name: by_service[config.service_of(name)] for name in config.experts}


def expert_client(config: RunConfig, name: str) -> ExpertClient:
    """The client of the application that holds an expert."""
    return _expert_client(config, config.service_of(name))


def _expert_client(config: RunConfig, service: str) -> ExpertClient:
    return ExpertClient(application_name(config, service), service, config.run.name, CallLimits(), shared=service == SHARED)
