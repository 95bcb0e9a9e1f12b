"""The stages of a run: what it reserves, its folder, how it ends."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from rich.console import Console

from actors.storage import once_writable
from fields import checkpoint
from fields.scene.exam import Exam
from pipelines.cluster.address import named
from pipelines.cluster.demands import RunDemands, check_demands
from pipelines.config.errors import ConfigError
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig
from pipelines.parts.consolidation import consolidate
from pipelines.parts.run_parts import RunParts
from pipelines.reports.run_report import write_report
from pipelines.reports.tables import skill_table
from pipelines.run.origin import Origin
from pipelines.run_folder.outcome import Outcome, write_config, write_summary
from pipelines.watch.progress import Display

if TYPE_CHECKING:
    from pipelines.cluster.reserve import Reservation


A = TypeVar("A")


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
        return named(self.address)


def reserve_cluster(parts: RunParts, options: Options, console: Console) -> "Reservation | None":
    """Join or start Ray and take what the run asks for of it; a run that deploys nothing is compared with this machine.

    Raises:
        ConfigError: says what is missing.
    """
    config, demands, address = parts.config, RunDemands.of(parts.config), options.cluster
    here = (os.cpu_count() or 1, torch.cuda.device_count(), "this machine")
    if options.reference or (options.dry_run and not address):
        check_demands([demands.in_one_process] if options.reference else demands.started, *here)
        return None
    if not console.is_terminal:
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # Ray's own warnings go to the same log
    import ray  # here: the reference loop runs without Ray

    from pipelines.cluster import connect
    from pipelines.cluster.deployment import RunServices
    from pipelines.cluster.node_files import check_node_files
    from pipelines.cluster.reserve import reserve
    from pipelines.cluster.waiting import waiting_for

    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    if not address:
        check_demands(demands.started, *here)
    connect.join_or_start(address, say, options.wait)
    if config.run.services is not None:
        with waiting_for(f"the services of {config.run.services} to stand", say):
            RunServices(parts).require_standing(options.wait)
    if options.dry_run:
        total = ray.cluster_resources()
        check_demands(demands.started, total.get("CPU", 0), total.get("GPU", 0), "the cluster")
        with waiting_for("the nodes to look for the run's files", say):
            check_node_files(config, say)
        return None
    if config.run.services is None:
        RunServices(parts).delete_own()  # what an earlier try left: applications outlive a driver that was killed
    return reserve(demands, options.wait, say)


def begin_folder(config: RunConfig, first_step: int, options: Options, console: Console) -> None:
    """Write the configuration, and drop what stands in the folder of steps that will be done again.

    Raises:
        ConfigError: if the folder cannot be written, nor within the seconds that the run may wait for what it needs.
    """
    given_up = time.monotonic() + options.wait

    def write() -> None:
        if options.resume == "never" and config.folder.exists():
            shutil.rmtree(config.folder)
        checkpoint.discard_after(config.folder / "checkpoints", first_step)
        write_config(config)

    try:
        _once_writable(write, console, lambda: time.monotonic() > given_up)
    except OSError as error:
        raise ConfigError(f"run.dir: {config.folder} cannot be written: {error}") from error


def _once_writable(write: Callable[[], A], console: Console, gives_up: Callable[[], bool] = lambda: False) -> A:
    def say(message: str) -> None:
        console.print(f"warning: {message}", highlight=False, soft_wrap=True)

    return asyncio.run(once_writable(lambda: asyncio.to_thread(write), say, gives_up))


def run(parts: RunParts, origin: Origin, display: Display, reservation: "Reservation | None") -> Outcome | None:
    """Train, distributed or (with nothing reserved) in this process; None if the run was asked to stop before its end."""
    if reservation is None:
        from pipelines.run.reference import run_reference

        return run_reference(parts, origin, display)
    from pipelines.run.distributed import run_distributed

    return run_distributed(parts, origin, display, reservation)


def finish(config: RunConfig, outcome: Outcome, console: Console) -> None:
    """Write summary.json and report.html, give the last checkpoint its model folders, and print the skills."""

    def write() -> dict[str, Any]:
        summary = write_summary(config, outcome)
        write_report(config, outcome, summary)
        consolidate(checkpoint.folder_of(config.folder / "checkpoints", outcome.steps))
        return summary

    summary = _once_writable(write, console)
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
