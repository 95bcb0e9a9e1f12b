"""How fast a run will be, before it is started: estimated, or from the time that its parts take here."""

import os
from dataclasses import replace

from pipelines.config.errors import ConfigError
from pipelines.config.run import RunConfig
from pipelines.data.scene import prepare_missing
from pipelines.parts.check_files import checked_parts
from pipelines.parts.needs import Needs
from pipelines.parts.pace import Pace, StepSeconds, step_flops
from pipelines.parts.work import Work
from pipelines.run.part_times import part_times

_CALLS_S = 0.1  # CPU seconds of all processes for what passes between them for a group: docs/performance.md


def estimated(config: RunConfig, needs: Needs, share: float) -> tuple[Pace | None, str]:
    """The pace on the learner's GPU at a share of its peak, and what it rests on; None, and why, where it can't be said."""
    if not (config.learner.num_gpus and config.rollout.num_gpus):
        return None, "how fast: no peak of a CPU is known; --measure 5 times the parts of five steps on this machine"
    try:
        seconds = StepSeconds.estimated(config, needs, share)
    except ValueError as error:
        return None, f"how fast: {error}"
    source = f"estimated at {share:.0%} of the peak of {config.learner.gpu} in {config.model.dtype}"
    return Pace.of(config, seconds, os.cpu_count() or 1, {}), source


def measured(config: RunConfig, needs: Needs, steps: int) -> tuple[Pace, str]:
    """The pace from the parts of so many steps, timed here one after the other, and what it rests on.

    Raises:
        ConfigError: for a number below 1, or as `checked_parts` does.
    """
    if steps < 1:
        raise ConfigError(f"--measure {steps}: allowed are numbers above 0")
    prepare_missing(config)
    parts = checked_parts(config)
    seconds = StepSeconds.median(part_times(parts, steps))
    calls = replace(seconds, beside=seconds.beside + _CALLS_S * Work.of(parts).groups)
    cores = (os.cpu_count() or 1) / config.numerics.threads
    return Pace.of(config, calls, cores, step_flops(config, needs)), f"parts of {steps} step{'s' * (steps != 1)} timed here"
