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
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayTaskError
from rich.console import Console

from pipelines import connect, deployment
from pipelines.changes import changed, with_recorded_changes
from pipelines.config import RunConfig
from pipelines.distributed import curriculum
from pipelines.load import ConfigError, load_config, settings
from pipelines.recipe import recipe
from pipelines.status import find_run
from pipelines.validate import check_demands, check_files, service_demands


def main(arguments: Sequence[str]) -> int:
    """Parse, check, deploy what is new, change. Returns the exit status: 2 for what is wrong with the input."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.change", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder, or its name in runs")
    parser.add_argument("settings", nargs="+", metavar="dotted.key=value", help="routes.NAME.weight, or a new expert or route")
    parser.add_argument("--at", type=int, required=True, metavar="STEP", help="the optimizer step that it takes effect at")
    parser.add_argument("--address", help="of the Ray cluster; default: RAY_ADDRESS, else one on this machine")
    options = parser.parse_intermixed_args(arguments)
    try:
        config = with_recorded_changes(load_config(find_run(options.run) / "config.yaml", []))
        if not 0 < options.at < config.run.steps:
            raise ConfigError(f"--at {options.at}: the steps of the run that can change are 1 to {config.run.steps - 1}")
        wanted = settings(options.settings)
        later = changed(config, options.at, wanted)
        rows = check_files(later)
        connect.require_cluster(options.address)
        learner = connect.learner(config.run.name)
        _change(config, later, rows, options.at, wanted, learner)
    except ConfigError as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        return 2
    Console().print(f"from step {options.at} on: {', '.join(options.settings)}", highlight=False, soft_wrap=True)
    return 0


def _change(config: RunConfig, later: RunConfig, rows: dict[str, int], step: int, wanted: dict[str, Any], learner: Any) -> None:
    """Deploy the experts that come, then tell the learner; what it refuses leaves nothing behind.

    Raises:
        ConfigError: for want of room, for an expert that cannot come, or if the step has begun.
    """
    new = _deploy_new(config, later)
    try:
        ray.get(learner.change.remote(step, partial(curriculum, later, rows), wanted, recipe(later)))
    except RayTaskError as error:
        deployment.delete(later, only=new)
        if isinstance(error.cause, ValueError):
            raise ConfigError(f"--at {step}: {error.cause}") from error
        raise


def _deploy_new(config: RunConfig, later: RunConfig) -> list[str]:
    """The services that come, deployed; none where the run uses standing ones."""
    if later.run.services is not None:
        deployment.require_standing(later)
        return []
    if later.shared_experts.keys() != config.shared_experts.keys() and config.shared_experts:
        raise ConfigError("placement: the shared experts are deployed as one; an expert that comes later is separate")
    new = [name for name in later.services if name not in config.services]
    if new:
        asked = [demand for name, demand in service_demands(later).items() if name in new]
        free = ray.available_resources()
        check_demands(asked, free.get("CPU", 0), free.get("GPU", 0), "the cluster's free part")
        deployment.deploy(later, only=new)
    return new


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
