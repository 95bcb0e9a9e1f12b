"""Changing what a run that goes on teaches: is it possible, what must be deployed for it, and telling the learner."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.curriculum import Change
from pipelines.cluster import deployment
from pipelines.config.errors import ConfigError
from pipelines.config.recipe import recipe
from pipelines.config.run import RunConfig
from pipelines.run.distributed import curriculum
from services import applications


def the_change(config: RunConfig, later: RunConfig, step: int, settings: Mapping[str, Any], rows: Mapping[str, int]) -> Change:
    """The change from one configuration to another, as the learner takes it."""
    return Change(
        step=step,
        build_curriculum=partial(curriculum, later, dict(rows)),
        settings=settings,
        replaced=recipe(config),
        recipe=recipe(later),
    )


def with_absolute_paths(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose paths don't depend on where this command was typed: the learner has another folder."""

    def path(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: path(name, inner) for name, inner in value.items()}
        local = key.rpartition(".")[2] in ("data", "adapter", "checkpoint") and isinstance(value, str) and Path(value).exists()
        return str(Path(value).absolute()) if local else value

    return {key: path(key, value) for key, value in wanted.items()}


def new_services(config: RunConfig, later: RunConfig, step: int, learner: Any) -> list[str]:
    """The services to deploy for the change; none if the run uses standing ones.

    Raises:
        ConfigError: if the step has begun, or a new expert cannot be deployed.
    """
    _ask(learner.require_open.remote(step), step)
    if later.run.services is not None:
        deployment.require_standing(later)
        return []
    new = [name for name in later.services if name not in config.services]
    if later.shared_experts.keys() != config.shared_experts.keys() and config.shared_experts:
        raise ConfigError("placement: the shared experts are deployed as one; an expert that comes later is separate")
    for name in new:
        if deployment.application_name(later, name) in applications.listed():
            raise ConfigError(f"experts.{name}: the application {deployment.application_name(later, name)} is there already")
    return new


def apply(later: RunConfig, new: Sequence[str], change: Change, learner: Any) -> None:
    """Deploy the new services, then tell the learner; if either fails, the new services are deleted again.

    Raises:
        ConfigError: if a service does not start, or the learner refuses.
    """
    try:
        if new:
            deployment.deploy(later, only=new)
        _ask(learner.change.remote(change), change.step)
    except BaseException as error:
        deployment.delete(later, only=new)
        if isinstance(error, RuntimeError) and not isinstance(error, RayError):
            raise ConfigError(str(error)) from error  # Serve's own words for an expert that did not start
        raise


def _ask(answer: ray.ObjectRef, step: int) -> None:
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
