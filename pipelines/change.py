"""Teach otherwise while a run goes on: `python -m pipelines.change RUN --at STEP dotted.key=value ...`.

    python -m pipelines.change runs/NAME --at 500 routes.local_edit.weight=2
    python -m pipelines.change runs/NAME --at 500 experts.realism.adapter=DIR \\
        routes.realism.expert=realism routes.realism.data=data/realism.parquet

The weight of a route can change, and experts and routes can come. A change takes effect at its step, whatever the speed of
the run, and is recorded in the run's folder: the run repeats it where it continues from an earlier checkpoint, and the
student is that of a run whose configuration had said so from the beginning (`routes.NAME.weight_changes`).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from rich.console import Console

from actors.curriculum import Change
from pipelines.cluster import connect
from pipelines.cluster.demands import RunDemands
from pipelines.cluster.deployment import RunServices
from pipelines.cluster.reserve import require_room
from pipelines.config.errors import ConfigError, complain
from pipelines.config.load import settings
from pipelines.config.recipe import recipe
from pipelines.config.run import RunConfig
from pipelines.parts.check_files import checked_parts
from pipelines.run.learner_parts import curriculum
from pipelines.run_folder.changes import changed, recorded_config
from pipelines.run_folder.find import find_run
from services import applications


def main(arguments: Sequence[str]) -> int:
    """Parse, check, deploy what is new, change. Returns the exit status: 2 for what is wrong with the input."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.change", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder, or its name in runs")
    parser.add_argument("settings", nargs="+", metavar="dotted.key=value", help="routes.NAME.weight, or a new expert or route")
    parser.add_argument("--at", type=int, required=True, metavar="STEP", help="the optimizer step that it takes effect at")
    connect.add_options(parser)
    options = parser.parse_intermixed_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        config = recorded_config(find_run(options.run))
        if not 0 < options.at < config.run.steps:
            raise ConfigError(f"--at {options.at}: the steps of the run that can change are 1 to {config.run.steps - 1}")
        wanted = absolute(settings(options.settings))
        later = changed(config, options.at, wanted)
        parts = checked_parts(later)
        services = RunServices(parts)
        connect.require_cluster(options.address)
        learner = connect.learner(config.run.name)
        new = _require_possible(config, later, options.at, learner, services)
        require_room(
            [demand for name, demand in RunDemands.of(later).services.items() if name in new], options.wait, console.print
        )
        change = Change(
            step=options.at,
            build_curriculum=partial(curriculum, parts),
            settings=wanted,
            replaced=recipe(config),
            recipe=recipe(later),
        )
        _change(services, new, change, learner)
    except ConfigError as error:
        complain(error)
        return 2
    console.print(f"from step {options.at} on: {', '.join(options.settings)}")
    return 0


def absolute(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose paths don't depend on where this command was typed: the learner has another folder."""

    def path(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: path(name, inner) for name, inner in value.items()}
        local = key.rpartition(".")[2] in ("data", "adapter", "checkpoint") and isinstance(value, str) and Path(value).exists()
        return str(Path(value).absolute()) if local else value

    return {key: path(key, value) for key, value in wanted.items()}


def _require_possible(config: RunConfig, later: RunConfig, step: int, learner: Any, services: RunServices) -> list[str]:
    """The services that come; none where the run uses standing ones.

    Raises:
        ConfigError: if the step has begun, or an expert cannot come.
    """
    _ask(learner.require_open.remote(step), step)
    if later.run.services is not None:
        services.require_standing()
        return []
    new = [name for name in later.services if name not in config.services]
    if later.shared_experts.keys() != config.shared_experts.keys() and config.shared_experts:
        raise ConfigError("placement: the shared experts are deployed as one; an expert that comes later is separate")
    for name in new:
        if (application := services.application_name(name)) in applications.listed():
            raise ConfigError(f"experts.{name}: the application {application} is there already")
    return new


def _change(services: RunServices, new: list[str], change: Change, learner: Any) -> None:
    """Deploy what comes, then tell the learner; what fails or is refused leaves nothing behind."""
    try:
        if new:
            services.deploy(only=new)
        _ask(learner.change.remote(change), change.step)
    except BaseException as error:
        services.delete(only=new)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
