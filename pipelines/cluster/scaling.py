"""Other numbers of processes for a run that goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipelines.cluster import deployment
from pipelines.cluster.demands import Demand, actor_demands, service_demands
from pipelines.config.errors import ConfigError
from pipelines.config.run import ENCODER, RunConfig
from services import applications

_ROLLOUT = "rollout"


def numbers(config: RunConfig, written: Sequence[str]) -> dict[str, int]:
    """`PART=N` as part -> number; experts that share an application are one part.

    Raises:
        ConfigError: for an unknown part, or for what is not a whole number from 1.
    """
    parts = {f"experts.{name}": config.service_of(name) for name in config.experts}
    parts |= {ENCODER: ENCODER, _ROLLOUT: _ROLLOUT}
    wanted: dict[str, int] = {}
    for text in written:
        name, _, number = text.partition("=")
        if name not in parts:
            raise ConfigError(f"{text!r}: unknown part {name!r}; allowed: {', '.join(parts)}")
        if not number.isdecimal() or int(number) < 1:
            raise ConfigError(f"{text!r}: write PART=N with a whole number N, at least 1")
        if wanted.setdefault(parts[name], int(number)) != int(number):
            raise ConfigError(f"{text!r}: the shared experts are one application; they have one number")
    return wanted


def demand_of(config: RunConfig, part: str) -> Demand:
    """What one process of a part needs."""
    _, rollout = actor_demands(config)
    return rollout if part == _ROLLOUT else service_demands(config)[part]


def added(config: RunConfig, wanted: Mapping[str, int], learner: Any) -> list[Demand]:
    """The processes that need room: more than run now, and more than the run reserved."""
    demands = []
    for part, count in wanted.items():
        held = config.rollout.workers if part == _ROLLOUT else 0  # their room stays reserved for the run
        if (more := count - max(held, count_of(config, part, learner))) > 0:
            demands.append(replace(demand_of(config, part), count=more))
    return demands


def count_of(config: RunConfig, part: str, learner: Any) -> int:
    """How many processes a part has: as it was last scaled."""
    if part == _ROLLOUT:
        return ray.get(learner.rollout_workers.remote())
    return applications.replicas(deployment.application_name(config, part))


def scale(config: RunConfig, part: str, count: int, learner: Any, timeout_s: float) -> None:
    """Start or end processes of a part until it has `count`.

    Raises:
        ConfigError: if Serve scales the part by itself.
        TimeoutError: if the new ones have not loaded in time; they are ended.
    """
    if part != _ROLLOUT:
        try:
            return applications.scale(deployment.application_name(config, part), count, timeout_s)
        except ValueError as error:
            raise ConfigError(f"{demand_of(config, part).who}: {error}") from error
    try:
        ray.get(learner.scale_rollout.remote(count, timeout_s))
    except RayTaskError as error:
        if isinstance(error.cause, TimeoutError):
            raise TimeoutError(f"rollout: not all of {count} workers loaded in {timeout_s:.0f} s; those were ended") from error
        raise
