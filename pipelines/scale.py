"""Other numbers of processes while a run goes on: `python -m pipelines.scale RUN experts.NAME=4 rollout=6 encoder=2`.

Nothing restarts: replicas and rollout workers that stay go on with what they do, those that end finish it first, and the
student becomes the same. A run that is stopped and continued begins with the numbers of its configuration again.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from rich.console import Console

from pipelines.cluster import connect, deployment
from pipelines.cluster.demands import Demand, actor_demands, service_demands
from pipelines.cluster.reserve import require_room
from pipelines.config.errors import ConfigError, complain
from pipelines.config.run import ENCODER, RunConfig
from pipelines.run_folder.changes import recorded_config
from pipelines.run_folder.find import find_run
from services import applications

_ROLLOUT = "rollout"


def main(arguments: Sequence[str]) -> int:
    """Parse, check, scale. Returns the exit status: 2 for what is wrong with the input, 1 for what did not come in time."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.scale", description=__doc__)
    parser.add_argument("run", help="run folder, or its name in runs")
    parser.add_argument("numbers", nargs="+", metavar="PART=N", help="experts.NAME, encoder or rollout, and how many")
    connect.add_options(parser)
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for new processes; default 300")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        config = recorded_config(find_run(options.run))
        wanted = numbers(config, options.numbers)
        connect.require_cluster(options.address)
        learner = connect.learner(config.run.name)
        require_room(_growing(config, wanted, learner), options.wait, console.print)
        for part, count in wanted.items():
            before = _count(config, part, learner)
            _scale(config, part, count, learner, options.timeout)
            console.print(f"{_demand(config, part).who}: {before} -> {count}")
    except (ConfigError, TimeoutError, RayError) as error:
        complain(error)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def numbers(config: RunConfig, written: Sequence[str]) -> dict[str, int]:
    """`PART=N` as part -> number; experts that share an application are one part.

    Raises:
        ConfigError: for an unknown part, or a value that isn't a number.
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


def _demand(config: RunConfig, part: str) -> Demand:
    """What one process of a part asks for."""
    _, rollout = actor_demands(config)
    return rollout if part == _ROLLOUT else service_demands(config)[part]


def _growing(config: RunConfig, wanted: Mapping[str, int], learner: Any) -> list[Demand]:
    """The processes that come, beside those that there are or that room is reserved for."""
    growing = []
    for part, count in wanted.items():
        held = config.rollout.workers if part == _ROLLOUT else 0  # their room stays reserved for the run
        if (more := count - max(held, _count(config, part, learner))) > 0:
            growing.append(replace(_demand(config, part), count=more))
    return growing


def _count(config: RunConfig, part: str, learner: Any) -> int:
    if part == _ROLLOUT:
        return ray.get(learner.rollout_workers.remote())
    return applications.replicas(deployment.application_name(config, part))


def _scale(config: RunConfig, part: str, count: int, learner: Any, timeout_s: float) -> None:
    if part != _ROLLOUT:
        try:
            return applications.scale(deployment.application_name(config, part), count, timeout_s)
        except ValueError as error:
            raise ConfigError(f"{_demand(config, part).who}: {error}") from error
    try:
        ray.get(learner.scale_rollout.remote(count, timeout_s))
    except RayTaskError as error:
        if isinstance(error.cause, TimeoutError):
            raise TimeoutError(f"rollout: not all of {count} workers loaded in {timeout_s:.0f} s; those were ended") from error
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
