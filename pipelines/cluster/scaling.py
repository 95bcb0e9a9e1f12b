"""The numbers of processes of a run that goes on: how many there are, and other numbers of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipelines.cluster.demands import Demand, RunDemands
from pipelines.cluster.deployment import RunServices
from pipelines.config.errors import ConfigError
from pipelines.config.run import RunConfig
from pipelines.parts.run_parts import RunParts
from services import applications

ROLLOUT = "rollout"


class RunningProcesses:
    """The rollout workers and the services' replicas of a run.

    Args:
        config: of the run.
        learner: its actor, which owns the rollout workers.
    """

    def __init__(self, config: RunConfig, learner: Any):
        self._demands = RunDemands.of(config)
        self._services = RunServices(RunParts(config))
        self._learner = learner

    def demand(self, part: str) -> Demand:
        """What the processes of a part ask for."""
        return self._demands.rollout if part == ROLLOUT else self._demands.services[part]

    def count(self, part: str) -> int:
        """How many processes of a part there are."""
        if part == ROLLOUT:
            return ray.get(self._learner.rollout_workers.remote())
        return applications.replicas(self._services.application_name(part))

    def growing(self, wanted: Mapping[str, int]) -> list[Demand]:
        """The processes that come, beside those that there are or that room is reserved for."""
        growing = []
        for part, count in wanted.items():
            reserved = self._demands.rollout.count if part == ROLLOUT else 0  # their room stays reserved for the run
            if (more := count - max(reserved, self.count(part))) > 0:
                growing.append(replace(self.demand(part), count=more))
        return growing

    def scale(self, part: str, count: int, timeout_s: float) -> None:
        """Give a part so many processes; returns when they are at work.

        Raises:
            ConfigError: if Serve scales the part by itself, or it does not run.
            TimeoutError: if they don't come in time.
        """
        if part != ROLLOUT:
            try:
                return applications.scale(self._services.application_name(part), count, timeout_s)
            except ValueError as error:
                raise ConfigError(f"{self.demand(part).who}: {error}") from error
        try:
            ray.get(self._learner.scale_rollout.remote(count, timeout_s))
        except RayTaskError as error:
            if isinstance(error.cause, TimeoutError):
                raise TimeoutError(
                    f"rollout: not all of {count} workers loaded in {timeout_s:.0f} s; those were ended"
                ) from error
            raise


def wanted_numbers(config: RunConfig, written: Sequence[str]) -> dict[str, int]:
    """`PART=N` as part -> number; experts that share an application are one part.

    Raises:
        ConfigError: for an unknown part, or what is no number of processes.
    """
    parts = {f"experts.{name}": config.service_of(name) for name in config.experts}
    parts |= {encoder: encoder for encoder in config.encoders} | {ROLLOUT: ROLLOUT}
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
