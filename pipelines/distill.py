"""Distil experts into one student: `python -m pipelines.distill CONFIG.yaml [dotted.key=value ...]`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

from rich.console import Console

from pipelines.config.errors import ConfigError, complain
from pipelines.run.supervisor import STOPPED

_COMES_BACK_S = 600.0  # within which the cluster or the disk that a run lost is there again, and has room


def main(arguments: Sequence[str]) -> int:
    """Parse, validate, run, report. Returns the exit status: 2 for what is wrong with the input."""
    given, console = parser().parse_intermixed_args(arguments), Console(markup=False)
    if given.supervise and not given.dry_run:
        return _supervised(given, [argument for argument in arguments if argument != "--supervise"], console)
    # here, so that --help needs neither torch nor Ray
    from pipelines.config.load import load_config
    from pipelines.run.distill import check, planned_memory, run_alone
    from pipelines.run.failures import RunFailed
    from pipelines.run.launch import Options

    options = Options(**{field.name: getattr(given, field.name) for field in fields(Options)})
    say = partial(console.print, highlight=False, soft_wrap=True)
    try:
        config = load_config(given.config, given.overrides)
        if options.dry_run:
            if planned := planned_memory(check(config, options, console)):
                say(planned)
            say(f"{given.config} is valid; nothing was deployed")
            return 0
        outcome = run_alone(config, options, console)
    except (ConfigError, RunFailed) as error:
        complain(error)
        return 2 if isinstance(error, ConfigError) else 1
    if outcome is None:
        say("stopped as asked, with a checkpoint; the same command continues from there")
        return STOPPED
    return 0


def _supervised(given: argparse.Namespace, arguments: Sequence[str], console: Console) -> int:
    """The same in a process of its own, which is started again where it ends without having finished."""
    from pipelines.config.load import load_config
    from pipelines.run.supervisor import supervise
    from pipelines.run_folder.find import newest_state, newest_step

    try:
        folder = load_config(given.config, given.overrides).folder
    except ConfigError as error:
        complain(error)
        return 2
    before = newest_state(folder)
    stood = before and (before, before.stat().st_mtime_ns)

    def saved_step() -> int | None:  # by this run: what stood there before may be of another, which it doesn't continue
        now = newest_state(folder)
        return None if now is None or stood == (now, now.stat().st_mtime_ns) else newest_step(folder)

    driver = [sys.executable, "-m", "pipelines.distill", *arguments]
    say = partial(console.print, highlight=False, soft_wrap=True)
    patient = ["--wait", str(max(given.wait, _COMES_BACK_S))]
    return supervise(driver, patient, ["--resume", "auto"], saved_step, say)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.distill", description=__doc__, allow_abbrev=False)
    parser.add_argument("config", type=Path, help="YAML file; docs/configuration.md describes it")
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value", help="replace a value of the configuration")
    parser.add_argument("--dry-run", action="store_true", help="validate everything, deploy nothing")
    parser.add_argument("--reference", action="store_true", help="the plain loop in this process, without Ray")
    parser.add_argument("--resume", default="auto", metavar="auto|never|CHECKPOINT", help="where to continue; default auto")
    parser.add_argument(
        "--supervise", action="store_true", help="start the run again from its newest checkpoint if its process is killed"
    )
    parser.add_argument("--address", help="of a running Ray cluster; default: RAY_ADDRESS, else start one in this process")
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="for a cluster that comes, grows or is busy, or a disk that is full; default: refuse at once",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
