"""The stages of a run's command: where it starts, what it reserves, how it ends."""

import argparse
import logging
import os
import shutil
from functools import partial
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from fields import checkpoint
from fields.scene.exam import Exam
from pipelines.cluster.demands import RunDemands, check_demands
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig
from pipelines.parts.run_parts import RunParts
from pipelines.reports.run_report import write_report
from pipelines.reports.tables import skill_table
from pipelines.run.origin import Origin
from pipelines.run_folder.outcome import Outcome, write_config, write_summary
from pipelines.watch.progress import Display

if TYPE_CHECKING:
    from pipelines.cluster.reserve import Reservation


def reserve_cluster(parts: RunParts, options: argparse.Namespace, console: Console) -> "Reservation | None":
    """Join or start Ray and take what the run asks for of it; a run that deploys nothing is compared with this machine.

    Raises:
        ConfigError: says what is missing.
    """
    config, demands = parts.config, RunDemands.of(parts.config)
    address = options.address or os.environ.get("RAY_ADDRESS")
    here = (os.cpu_count() or 1, torch.cuda.device_count(), "this machine")
    if options.reference or (options.dry_run and not address):
        check_demands(demands.started, *here)
        return None
    if not console.is_terminal:
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # Ray's own warnings go to the same log
    import ray

    from pipelines.cluster import connect
    from pipelines.cluster.deployment import RunServices
    from pipelines.cluster.reserve import reserve

    if address:
        connect.require_cluster(address)
    else:
        check_demands(demands.started, *here)
        context = ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=True)
        console.print(f"Ray dashboard: http://{context.dashboard_url}", highlight=False)
    if config.run.services is not None:
        RunServices(parts).require_standing()
    if options.dry_run:
        total = ray.cluster_resources()
        check_demands(demands.started, total.get("CPU", 0), total.get("GPU", 0), "the cluster")
        return None
    if config.run.services is None:
        RunServices(parts).delete_own()  # what an earlier try left: applications outlive a driver that was killed
    return reserve(demands, options.wait, partial(console.print, highlight=False, soft_wrap=True, markup=False))


def begin_folder(config: RunConfig, first_step: int, mode: str) -> None:
    """Make the run's folder ready: what an earlier try did beyond the first step is discarded, or everything (`never`)."""
    if mode == "never" and config.folder.exists():
        shutil.rmtree(config.folder)
    checkpoint.discard_after(config.folder / "checkpoints", first_step)
    write_config(config)


def run(parts: RunParts, origin: Origin, display: Display, reservation: "Reservation | None") -> Outcome | None:
    """Run on what is reserved, or the reference loop in this process; None if it was asked to stop."""
    if reservation is None:
        from pipelines.run.reference import run_reference

        return run_reference(parts, origin, display)
    from pipelines.run.distributed import run_distributed

    return run_distributed(parts, origin, display, reservation)


def finish(config: RunConfig, outcome: Outcome, console: Console) -> None:
    """Write summary and report of a finished run, and print its table."""
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
