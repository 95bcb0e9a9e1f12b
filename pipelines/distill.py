"""Distil experts into one student: `python -m pipelines.distill CONFIG.yaml [dotted.key=value ...]`."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pipelines.config.errors import ConfigError, complain


def main(arguments: Sequence[str]) -> int:
    """Parse, validate, run, report. Returns the exit status: 2 for what is wrong with the input."""
    options = parser().parse_intermixed_args(arguments)
    # here, so that --help needs neither torch nor Ray
    from pipelines.config.load import load_config
    from pipelines.data.scene import prepare_missing
    from pipelines.parts.check_files import check_files
    from pipelines.run.launch import begin_folder, checkpoint_to_continue, finish, first_step, reserve_cluster, run
    from pipelines.run_folder.changes import recorded_config, with_recorded_changes
    from pipelines.watch.progress import Display

    console = Console()
    try:
        planned = load_config(options.config, options.overrides)
        config = planned if options.resume == "never" else with_recorded_changes(planned, planned.folder)
        prepare_missing(config)
        rows = check_files(config)
        resume = checkpoint_to_continue(config, options.resume)
        start = first_step(config, resume)
        reservation = reserve_cluster(config, options, console)
    except ConfigError as error:
        complain(error)
        return 2
    if options.dry_run:
        console.print(f"{options.config} is valid; nothing was deployed", highlight=False, soft_wrap=True)
        return 0
    begin_folder(planned, start, options.resume)
    with Display(console, start, config.run.steps) as display:
        display.say(f"run {config.run.name}: steps {start} to {config.run.steps}" + (f", from {resume}" if resume else ""))
        if "_ray_pkg_" in str(config.folder.absolute()):  # where Ray unpacks the working directory of a job
            display.say(f"warning: {config.folder} lies in the job's copy of the checkout, which Ray deletes; set run.dir")
        outcome = run(config, rows, resume, start, display, reservation)
    if outcome is None:
        console.print("stopped as asked, with a checkpoint; the same command continues from there", highlight=False)
        return 128 + signal.SIGTERM
    finish(recorded_config(config.folder), outcome, console)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.distill", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML file; docs/config.schema.json describes it")
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value", help="replace a value of the configuration")
    parser.add_argument("--dry-run", action="store_true", help="validate everything, deploy nothing")
    parser.add_argument("--reference", action="store_true", help="the plain loop in this process, without Ray")
    parser.add_argument("--resume", default="auto", metavar="auto|never|CHECKPOINT", help="where to continue; default auto")
    parser.add_argument("--address", help="of a running Ray cluster; default: RAY_ADDRESS, else start one in this process")
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="for a busy or growing cluster; default: refuse at once",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
