"""Other numbers of processes while a run goes on: `python -m pipelines.scale RUN experts.NAME=4 rollout=6 encoder=2`.

Nothing restarts: replicas and rollout workers that stay go on with what they do, those that end finish it first, and the
student becomes the same. A run that is stopped and continued begins with the numbers of its configuration again.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from pipelines.cluster.address import add_options
from pipelines.config.errors import ConfigError, complain


def main(arguments: Sequence[str]) -> int:
    """Parse, check, scale. Returns the exit status: 2 for what is wrong with the input, 1 for what did not come in time."""
    options = _parser().parse_args(arguments)
    # here, so that --help needs neither torch nor Ray
    from ray.exceptions import RayError

    try:
        _scale(options, Console(markup=False, highlight=False, soft_wrap=True))
    except (ConfigError, TimeoutError, RayError) as error:
        complain(error)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.scale", description=__doc__)
    parser.add_argument("run", help="run folder, or its name in runs")
    parser.add_argument("numbers", nargs="+", metavar="PART=N", help="experts.NAME, encoder or rollout, and how many")
    add_options(parser)
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for new processes; default 300")
    return parser


def _scale(options: argparse.Namespace, console: Console) -> None:
    from pipelines.cluster import connect
    from pipelines.cluster.reserve import require_room
    from pipelines.cluster.scaling import RunningProcesses, wanted_numbers
    from pipelines.cluster.waiting import waiting_for
    from pipelines.run_folder.changes import recorded_config
    from pipelines.run_folder.find import find_run

    folder = find_run(options.run)
    config = recorded_config(folder)
    wanted = wanted_numbers(config, options.numbers)
    connect.require_cluster(options.address, console.print, run=folder)
    running = RunningProcesses(config, connect.learner(config.run.name))
    require_room(running.growing(wanted), options.wait, console.print)
    for part, count in wanted.items():
        before, who = running.count(part), running.demand(part).who
        with waiting_for(f"{who}: {before} -> {count}", console.print):
            running.scale(part, count, options.timeout)
        console.print(f"{who}: {before} -> {count}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
