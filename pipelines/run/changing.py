"""Changing what a run that goes on teaches: is it possible, what must be deployed for it, and telling the learner."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.curriculum import Change
from pipelines.cluster.deployment import RunServices
from pipelines.config.errors import ConfigError
from pipelines.config.recipe import recipe
from pipelines.config.run import RunConfig
from pipelines.parts.run_parts import RunParts
from pipelines.run.learner_parts import curriculum
from services import applications


def the_change(config: RunConfig, later: RunParts, step: int, settings: Mapping[str, Any]) -> Change:
    """The change from a configuration to later parts, as the learner takes it."""
    return Change(
        step=step,
        build_curriculum=partial(curriculum, later),
        settings=settings,
        replaced=recipe(config),
        recipe=recipe(later.config),
    )


def with_absolute_paths(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose paths don't depend on where this command was typed: the learner has another folder."""

    def path(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: path(name, inner) for name, inner in value.items()}
        names_file = key.rpartition(".")[2] in ("data", "adapter", "checkpoint", "path") and isinstance(value, str)
        local = names_file and Path(value).exists()
        return str(Path(value).absolute()) if local else value

    return {key: path(key, value) for key, value in wanted.items()}


def new_services(config: RunConfig, later: RunParts, step: int, learner: Any) -> list[str]:
    """The services to deploy for the change; none if the run uses standing ones.

    Raises:
        ConfigError: if the step has begun, or a new expert cannot be deployed.
    """
    _ask(learner.require_open.remote(step), step)
    services = RunServices(later)
    if later.config.run.services is not None:
        services.require_standing()
        return []
    new = [name for name in later.config.services if name not in config.services]
    if later.config.shared_experts.keys() != config.shared_experts.keys() and config.shared_experts:
        raise ConfigError("placement: the shared experts are deployed as one; an expert that comes later is separate")
    for name in new:
        if (application := services.application_name(name)) in applications.listed():
            raise ConfigError(f"experts.{name}: the application {application} is there already")
    return new


def apply(later: RunParts, new: list[str], change: Change, learner: Any) -> None:
    """Deploy the new services, then tell the learner; if either fails, the new services are deleted again.

    Raises:
        ConfigError: if a service does not start, or the learner refuses.
    """
    services = RunServices(later)
    try:
        if new:
            services.deploy(only=new)
        _ask(learner.change.remote(change), change.step)
    except BaseException as error:
        services.delete(only=new)
        if isinstance(error, RuntimeError) and not isinstance(error, RayError):
            raise ConfigError(str(error)) from error  # Serve's own words for an expert that did not start
        raise


def _ask(answer: ray.ObjectRef[Any], step: int) -> None:
    """Wait for the learner.

    Raises:
        ConfigError: if it refuses, or has ended.
    """
    try:
        ray.get(answer)
    except RayActorError as error:
        raise ConfigError(f"--at {step}: the run has ended") from error
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ConfigError(f"--at {step}: {error.cause}") from error
        raise
