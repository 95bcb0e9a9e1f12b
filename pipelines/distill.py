"""Distil experts into one student: `python -m pipelines.distill CONFIG.yaml [dotted.key=value ...]`."""

import argparse
import logging
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from fields import checkpoint
from fields.scene.exam import Exam
from pipelines.changes import recorded_config, with_recorded_changes
from pipelines.complain import complain
from pipelines.config import AFTER, BASE, BEFORE, RunConfig
from pipelines.load import ConfigError, load_config
from pipelines.outcome import Outcome, write_config, write_summary
from pipelines.progress import Display
from pipelines.recipe import recipe, recipe_differences
from pipelines.report import write_report
from pipelines.sources.scene import prepare_missing
from pipelines.tables import skill_table
from pipelines.validate import check_files, check_resources

if TYPE_CHECKING:
    from pipelines.reserve import Reservation


def main(arguments: Sequence[str]) -> int:
    """Parse, validate, run, report. Returns the exit status: 2 for what is wrong with the input."""
    options = parser().parse_intermixed_args(arguments)
    console = Console()
    try:
        planned = load_config(options.config, options.overrides)
        config = planned if options.resume == "never" else with_recorded_changes(planned, planned.folder)
        prepare_missing(config)
        rows = check_files(config)
        resume = _checkpoint(config, options.resume)
        start = _start(config, resume)
        reservation = _connect(config, options, console)
    except ConfigError as error:
        complain(error)
        return 2
    if options.dry_run:
        console.print(f"{options.config} is valid; nothing was deployed", highlight=False, soft_wrap=True)
        return 0
    _begin_folder(planned, start, options.resume)
    with Display(console, config.run.name, start, config.run.steps) as display:
        display.say(f"run {config.run.name}: steps {start} to {config.run.steps}" + (f", from {resume}" if resume else ""))
        if "_ray_pkg_" in str(config.folder.absolute()):  # where Ray unpacks the working directory of a job
            display.say(f"warning: {config.folder} lies in the job's copy of the checkout, which Ray deletes; set run.dir")
        outcome = _run(config, rows, resume, start, display, reservation)
    if outcome is None:
        console.print("stopped as asked, with a checkpoint; the same command continues from there", highlight=False)
        return 128 + signal.SIGTERM
    _finish(recorded_config(config.folder), outcome, console)
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


def _checkpoint(config: RunConfig, resume: str) -> Path | None:
    if resume == "never":
        return None
    if resume == "auto":
        return checkpoint.newest(config.folder / "checkpoints")
    return Path(resume)


def _start(config: RunConfig, resume: Path | None) -> int:
    """The first step to do.

    Raises:
        ConfigError: if the checkpoint is damaged or was written with other settings that decide the result.
    """
    if resume is None:
        return 0
    try:
        saved = checkpoint.read(resume)
    except ValueError as error:
        raise ConfigError(f"--resume: {error}") from error
    if differences := recipe_differences(recipe(config), saved.recipe, saved.step):
        raise ConfigError(
            f"{resume} was written with other settings: {'; '.join(differences)}. Restore them, name another run, "
            "or start over with --resume never"
        )
    if saved.step > config.run.steps:
        raise ConfigError(f"run.steps: {resume} has {saved.step} steps already, more than {config.run.steps}")
    return saved.step


def _connect(config: RunConfig, options: argparse.Namespace, console: Console) -> "Reservation | None":
    """Join or start Ray and take what the run asks for of it; a run that deploys nothing is compared with this machine.

    Raises:
        ConfigError: says what is missing.
    """
    address = options.address or os.environ.get("RAY_ADDRESS")
    here = (os.cpu_count() or 1, torch.cuda.device_count(), "this machine")
    if options.reference or (options.dry_run and not address):
        check_resources(config, *here)
        return None
    if not console.is_terminal:
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # Ray's own warnings go to the same log
    import ray

    from pipelines import connect, deployment
    from pipelines.reserve import reserve

    if address:
        connect.require_cluster(address)
    else:
        check_resources(config, *here)
        context = ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=True)
        console.print(f"Ray dashboard: http://{context.dashboard_url}", highlight=False)
    if config.run.services is not None:
        deployment.require_standing(config)
    if options.dry_run:
        total = ray.cluster_resources()
        check_resources(config, total.get("CPU", 0), total.get("GPU", 0), "the cluster")
        return None
    if config.run.services is None:
        deployment.delete_own(config)  # what an earlier try left: applications outlive a driver that was killed
    return reserve(config, options.wait, partial(console.print, highlight=False, soft_wrap=True, markup=False))


def _begin_folder(config: RunConfig, start: int, mode: str) -> None:
    if mode == "never" and config.folder.exists():
        shutil.rmtree(config.folder)
    checkpoint.discard_after(config.folder / "checkpoints", start)
    write_config(config)


def _run(
    config: RunConfig,
    rows: dict[str, int],
    resume: Path | None,
    start: int,
    display: Display,
    reservation: "Reservation | None",
) -> Outcome | None:
    if reservation is None:
        from pipelines.reference import run_reference

        return run_reference(config, rows, resume, display)
    from pipelines.distributed import run_distributed

    return run_distributed(config, rows, resume, start, display, reservation)


def _finish(config: RunConfig, outcome: Outcome, console: Console) -> None:
    summary = write_summary(config, outcome)
    write_report(config, outcome, summary)
    if outcome.results and isinstance(outcome.exam, Exam):
        order = [BASE, *config.experts, BEFORE, AFTER]
        skills = {name: outcome.results[name].skills for name in order}
        for measure in ("graded", "exact"):
            console.print(skill_table(f"Skills, {measure}", skills, measure))
    console.print(
        f"{summary['steps']} steps, {summary['samples']} samples in {summary['seconds']:.0f} s "
        f"({summary['samples_per_second']:.1f} samples/s)",
        highlight=False,
    )
    console.print(f"run folder: {config.folder}\nreport: {config.folder / 'report.html'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
