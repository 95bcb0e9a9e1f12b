"""The stages of a run's command: where it starts, what it reserves, how it ends."""

import logging
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from fields import checkpoint
from fields.scene.exam import Exam
from pipelines.cluster.demands import check_resources
from pipelines.config.errors import ConfigError
from pipelines.config.recipe import recipe, recipe_differences
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig
from pipelines.reports.run_report import write_report
from pipelines.reports.tables import skill_table
from pipelines.run_folder.outcome import Outcome, write_config, write_summary
from pipelines.watch.progress import Display

if TYPE_CHECKING:
    from pipelines.cluster.reserve import Reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run is run; `pipelines.run.distill.distill` describes the rest. A dry run reserves and deploys nothing."""

    resume: str = "auto"
    address: str | None = None
    wait: float = 0.0
    reference: bool = False
    dry_run: bool = False

    @property
    def cluster(self) -> str | None:
        """The address of the Ray cluster to join; None starts one in this process."""
        return self.address or os.environ.get("RAY_ADDRESS")


def checkpoint_to_continue(config: RunConfig, resume: str) -> Path | None:
    if resume == "never":
        return None
    if resume == "auto":
        return checkpoint.newest(config.folder / "checkpoints")
    return Path(resume)


def first_step(config: RunConfig, resume: Path | None) -> int:
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


def reserve_cluster(config: RunConfig, options: Options, console: Console) -> "Reservation | None":
    """Join or start Ray and take what the run asks for of it; a run that deploys nothing is compared with this machine.

    Raises:
        ConfigError: says what is missing.
    """
    address = options.cluster
    here = (os.cpu_count() or 1, torch.cuda.device_count(), "this machine")
    if options.reference or (options.dry_run and not address):
        check_resources(config, *here)
        return None
    if not console.is_terminal:
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # Ray's own warnings go to the same log
    import ray

    from pipelines.cluster import connect, deployment
    from pipelines.cluster.reserve import reserve

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


def begin_folder(config: RunConfig, start: int, mode: str) -> None:
    if mode == "never" and config.folder.exists():
        shutil.rmtree(config.folder)
    checkpoint.discard_after(config.folder / "checkpoints", start)
    write_config(config)


def run(
    config: RunConfig,
    rows: dict[str, int],
    resume: Path | None,
    start: int,
    display: Display,
    reservation: "Reservation | None",
) -> Outcome | None:
    if reservation is None:
        from pipelines.run.reference import run_reference

        return run_reference(config, rows, resume, display)
    from pipelines.run.distributed import run_distributed

    return run_distributed(config, rows, resume, start, display, reservation)


def finish(config: RunConfig, outcome: Outcome, console: Console) -> None:
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
