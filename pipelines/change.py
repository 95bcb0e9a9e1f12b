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

from rich.console import Console

from pipelines.cluster.address import add_options
from pipelines.config.errors import ConfigError, complain


def main(arguments: Sequence[str]) -> int:
    """Parse, check, deploy what is new, change. Returns the exit status: 2 for what is wrong with the input."""
    options = _parser().parse_intermixed_args(arguments)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    try:
        _change(options, console)
    except ConfigError as error:
        complain(error)
        return 2
    console.print(f"from step {options.at} on: {', '.join(options.settings)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.change", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder, or its name in runs")
    parser.add_argument("settings", nargs="+", metavar="dotted.key=value", help="routes.NAME.weight, or a new expert or route")
    parser.add_argument("--at", type=int, required=True, metavar="STEP", help="the optimizer step that it takes effect at")
    add_options(parser)
    return parser


def _change(options: argparse.Namespace, console: Console) -> None:
    # here, so that --help needs neither torch nor Ray
    from pipelines.cluster import connect
    from pipelines.cluster.demands import RunDemands
    from pipelines.cluster.reserve import require_room
    from pipelines.cluster.waiting import waiting_for
    from pipelines.config.load import settings
    from pipelines.parts.check_files import checked_parts
    from pipelines.run import changing
    from pipelines.run_folder.changes import changed, recorded_config
    from pipelines.run_folder.find import find_run

    folder = find_run(options.run)
    config = recorded_config(folder)
    if not 0 < options.at < config.run.steps:
        raise ConfigError(f"--at {options.at}: the steps of the run that can change are 1 to {config.run.steps - 1}")
    wanted = changing.with_absolute_paths(settings(options.settings))
    later = changed(config, options.at, wanted)
    parts = checked_parts(later)
    connect.require_cluster(options.address, console.print, run=folder)
    learner = connect.learner(config.run.name)
    new = changing.new_services(config, parts, options.at, learner)
    demands = RunDemands.of(later).services
    require_room([demands[name] for name in new], options.wait, console.print)
    with waiting_for(f"{', '.join(new) or 'the learner'}", console.print):
        changing.apply(parts, new, changing.the_change(config, parts, options.at, wanted), learner)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
