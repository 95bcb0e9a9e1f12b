"""A whole distillation, from a configuration to the run's outcome; `python -m pipelines.distill` and Python scripts call it."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from actors.journal import METRICS, SKILLS, rows
from actors.mirror import Mirror
from fields import checkpoint
from pipelines.config.errors import ConfigError, input_refused
from pipelines.config.run import RunConfig
from pipelines.data.scene import prepare_missing
from pipelines.parts.check_files import checked_parts
from pipelines.parts.needs import Needs
from pipelines.parts.run_parts import RunParts
from pipelines.reports.needs import summary
from pipelines.run.launch import Options, begin_folder, finish, reserve_cluster, run
from pipelines.run.mirrored import begin_mirror, open_mirror, restore, store_record
from pipelines.run.origin import Origin
from pipelines.run_folder.changes import recorded_config, with_recorded_changes
from pipelines.run_folder.lock import only_driver
from pipelines.run_folder.outcome import Outcome
from pipelines.watch.progress import Display

if TYPE_CHECKING:
    from pipelines.cluster.reserve import Reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A run that can begin: everything is checked, and its resources are reserved.

    Attributes:
        parts: of the configuration with the changes that an earlier session recorded.
        origin: where it begins.
        reservation: None for the reference loop and a dry run.
        mirror: where the run is copied to, if anywhere.
    """

    parts: RunParts
    origin: Origin
    reservation: "Reservation | None"
    mirror: Mirror | None


def distill(
    config: RunConfig,
    *,
    resume: str = "auto",
    address: str | None = None,
    wait: float = 0.0,
    reference: bool = False,
) -> Outcome | None:
    """Distil a student and write its run folder, `config.folder`.

    Args:
        config: see `pipelines.config.load.load_config`.
        resume: "auto" continues from the newest complete checkpoint of that name, "never" starts over; or a path.
        address: of a running Ray cluster; None is RAY_ADDRESS, or else a cluster in this process, which ends with the run.
        wait: seconds to wait for a busy or growing cluster.
        reference: the plain loop in this process, without Ray; it gives the same weights.

    Returns:
        The final weights and, with evaluation, every exam; None if the run was stopped, with a checkpoint to continue from.

    Raises:
        ConfigError: in one line, before anything is deployed.
    """
    return run_alone(config, Options(resume=resume, address=address, wait=wait, reference=reference), Console(markup=False))


def run_alone(config: RunConfig, options: Options, console: Console) -> Outcome | None:
    """Check a run and carry it out, while no other driver writes its folder; None if the run was stopped.

    Raises:
        ConfigError: as `distill` does.
        RunFailed: if the learner is lost again and again, with no checkpoint in between.
    """
    with only_driver(config.folder):
        return _carry_out(config, check(config, options, console), options, console)


def check(planned: RunConfig, options: Options, console: Console) -> Checked:
    """Everything that comes before the first deployment.

    Raises:
        ConfigError: names the key, the value and what is allowed, or what the cluster lacks.
    """
    with input_refused():
        return _checked(planned, options, console)


def _checked(planned: RunConfig, options: Options, console: Console) -> Checked:
    if options.reference and planned.run.profile is not None:
        raise ConfigError(
            f"run.profile: {planned.run.profile} is for traces of a distributed run's processes; allowed with --reference: none"
        )
    if options.reference and planned.checkpoint.mirror is not None:
        raise ConfigError(f"checkpoint.mirror: {planned.checkpoint.mirror} is for a run on Ray; allowed with --reference: none")
    say = partial(console.print, highlight=False, soft_wrap=True)
    mirror = open_mirror(planned, say)
    if mirror and options.resume == "auto" and not options.dry_run and (step := restore(planned, mirror)):
        say(f"the checkpoint after step {step} was brought from {planned.checkpoint.mirror}")
    config = planned if options.resume == "never" else with_recorded_changes(planned, planned.folder)
    for record in (METRICS, SKILLS) if options.resume != "never" else ():
        rows(config.folder / record)  # what the journal will continue
    prepare_missing(config)
    parts = checked_parts(config)
    origin = Origin.find(parts.config, options.resume)  # with `auto` settled, as the checkpoint's recipe has it
    return Checked(parts=parts, origin=origin, reservation=reserve_cluster(parts, options, console), mirror=mirror)


def planned_memory(checked: Checked) -> str | None:
    """What a run keeps on GPUs, in one line; None without them.

    Raises:
        ConfigError: if a process doesn't fit its share of a GPU; says what to set.
    """
    config = checked.parts.config
    if not any(section.num_gpus for section in (config.learner, config.rollout, *config.services.values())):
        return None
    return summary(Needs.of(config))


def _carry_out(planned: RunConfig, checked: Checked, options: Options, console: Console) -> Outcome | None:
    """Run what was checked, and write summary and report; None if the run was stopped."""
    config, origin = checked.parts.config, checked.origin
    passed_over = checkpoint.after(config.folder / "checkpoints", origin.step) if options.resume == "auto" else []
    if checked.mirror:  # first: what stood there would be taken for this run's if this process ended in between
        begin_mirror(config, checked.mirror, origin.step, options.resume)
    begin_folder(planned, origin.step, options, console)
    with Display(console, origin.step, config.run.steps) as display:
        continued = f", from {origin.checkpoint}" if origin.checkpoint else ""
        display.say(f"run {config.run.name}: steps {origin.step} to {config.run.steps}{continued}")
        for path in passed_over:
            display.say(f"warning: {path.name} is not complete; it is passed over, and deleted")
        if not config.numerics.deterministic:
            display.say(f"warning: {config.numerics.promise}")
        if "_ray_pkg_" in str(config.folder.absolute()):  # where Ray unpacks the working directory of a job
            display.say(f"warning: {config.folder} lies in the job's copy of the checkout, which Ray deletes; set run.dir")
        outcome = run(checked.parts, origin, display, checked.reservation)
    if outcome is not None:
        finish(recorded_config(config.folder), outcome, console)
        if checked.mirror:
            try:
                store_record(config, checked.mirror)
            except ConfigError as error:  # the run is finished all the same
                console.print(f"warning: {error}", highlight=False, soft_wrap=True)
    if checked.reservation is not None and options.cluster is None:
        import ray

        ray.shutdown()  # the cluster of this process, so that the next run can start its own
    return outcome
