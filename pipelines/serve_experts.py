"""Experts that outlive runs: `python -m pipelines.serve_experts CONFIG.yaml [dotted.key=value ...] [--delete]`.

Deploys the experts and the encoder of a configuration on a running cluster, under the name `run.services` (else `run.name`).
They stand until they are deleted, and every run with that `run.services` uses them, several at the same time. What stands
already stays as it is; what stands with other settings is refused.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.cluster.address import add_options
from pipelines.config.errors import ConfigError, complain

if TYPE_CHECKING:
    from pipelines.cluster.deployment import RunServices
    from pipelines.config.run import RunConfig


def main(arguments: Sequence[str]) -> int:
    """Parse, check, deploy or delete. Returns the exit status: 2 for what is wrong with the input."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.serve_experts", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value")
    parser.add_argument("--delete", action="store_true", help="delete them; runs that use them wait, and fail in the end")
    add_options(parser)
    options = parser.parse_intermixed_args(arguments)
    # here, so that --help needs neither torch nor Ray
    from pipelines.cluster import connect
    from pipelines.cluster.demands import RunDemands
    from pipelines.cluster.deployment import RunServices
    from pipelines.cluster.reserve import require_room
    from pipelines.cluster.waiting import waiting_for
    from pipelines.config.load import load_config
    from pipelines.data.scene import prepare_missing
    from pipelines.parts.check_files import check_models
    from pipelines.parts.run_parts import RunParts

    console = Console(markup=False, highlight=False, soft_wrap=True)
    try:
        config = standing(load_config(options.config, options.overrides))
        parts = RunParts(config)
        services = RunServices(parts)
        if options.delete:
            connect.require_cluster(options.address, console.print)
            services.delete(wait=True)
            console.print(f"deleted: {', '.join(services.names)}")
            return 0
        prepare_missing(config)
        check_models(parts)
        connect.require_cluster(options.address, console.print)
        missing = services.missing()
        asked = [demand for name, demand in RunDemands.of(config).services.items() if name in missing]
        require_room(asked, options.wait, console.print)
        if missing:
            with waiting_for(", ".join(missing), console.print):
                services.deploy(only=missing)
    except (ConfigError, RuntimeError, TimeoutError) as error:  # Serve's own words for what did not start
        complain(error)
        return 2
    console.print(_table(services, missing))
    console.print(f"runs use them with run.services={config.run.services}")
    return 0


def standing(config: "RunConfig") -> "RunConfig":
    """The configuration with a name for its services."""
    run = config.run
    return config.model_copy(update={"run": run.model_copy(update={"services": run.services or run.name})})


def _table(services: "RunServices", new: Sequence[str]) -> Table:
    from services import applications

    table = Table("application", "replicas", "", box=box.SIMPLE_HEAD)
    deployed = [services.application_name(service) for service in new]
    for name in services.names:
        table.add_row(name, str(applications.replicas(name)), "deployed" if name in deployed else "stood already")
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
