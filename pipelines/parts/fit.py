"""What `auto` is, by what a GPU holds: the learner's micro-batch, whether it computes activations again, and merging."""

from math import ceil

from pipelines.config.errors import ConfigError
from pipelines.config.gpus import GIGABYTE, PLANNED_FOR, gpu_bytes, room
from pipelines.config.run import RunConfig
from pipelines.config.student import LoraStudentConfig
from pipelines.parts.footprints import Footprints


def fitted(config: RunConfig) -> RunConfig:
    """The configuration with every `auto` settled that a GPU's memory decides: the learner's, and the rollout workers' `merge`.

    Without a GPU they stay, and mean whole groups, no recomputation, and merged weights. The settings depend on the
    configuration and the routes' rows, never on the machine: the micro-batch orders the sums of a gradient, and merging rounds.

    Raises:
        ConfigError: if no setting of the learner fits the GPU; says by how much.
    """
    learner = config.learner
    if learner.num_gpus and "auto" in (learner.micro_batch, learner.recompute):
        micro_batch, recompute = choose(Footprints(config))
        settled = learner.model_copy(update={"micro_batch": micro_batch, "recompute": "always" if recompute else "never"})
        config = config.model_copy(update={"learner": settled})
    return fitted_rollout(config)


def fitted_rollout(config: RunConfig) -> RunConfig:
    """The configuration with the rollout workers' `auto` settled."""
    rollout = config.rollout
    if rollout.merge != "auto" or not rollout.num_gpus:
        return config
    return config.model_copy(update={"rollout": rollout.model_copy(update={"merge": merges(Footprints(config))})})


def merges(footprints: Footprints) -> bool:
    """Whether rollout workers merge: `auto` does, unless there is no room for the copies of the base's weights that it takes.

    A full student's weights replace the base's, and are merged in any case.
    """
    config = footprints.config
    rollout = config.rollout
    if (
        rollout.merge != "auto"
        or rollout.ranks > 1
        or not rollout.num_gpus
        or not isinstance(config.student, LoraStudentConfig)
    ):
        return rollout.merges
    return footprints.rollout(merge=True).fits(config.learner.gpu)


def choose(footprints: Footprints) -> tuple[int, bool]:
    """Micro-batch and recomputation: kept activations where one sample's fit, and of the micro-batches that fit the one that
    splits a group into the fewest, most equal parts. One rank's memory decides, for any number: ranks must not change a sum.
    Where they share a full student, they do so anyway, and what each of them holds decides.

    Raises:
        ConfigError: if nothing fits.
    """
    config = footprints.config
    learner, group = config.learner, config.rollout.group_size
    free = room(learner.gpu, learner.num_gpus) - sum(footprints.learner_fixed())
    least = 0.0
    for recompute in (False, True) if learner.recompute == "auto" else (learner.recompute == "always",):
        fixed = None if learner.micro_batch == "auto" else learner.micro_batch
        one = footprints.update(fixed or 1, recompute).peak_bytes
        least = one
        if one > free:
            continue
        if fixed or group == 1:
            return fixed or 1, recompute
        each = footprints.update(2, recompute).peak_bytes - one  # what a sample more takes: the peak grows linearly
        most = min(group, 1 + int((free - one) // max(each, 1)))
        return ceil(group / ceil(group / most)), recompute
    needed, asked = (
        (least + sum(footprints.learner_fixed())) / GIGABYTE,
        1 if learner.micro_batch == "auto" else learner.micro_batch,
    )
    raise ConfigError(
        f"learner.gpu: {learner.gpu} has {gpu_bytes(learner.gpu) / GIGABYTE:.1f} GB, of which {PLANNED_FOR:.0%} are planned "
        f"for; the learner needs {needed:.1f} GB for a micro-batch of {asked}"
    )
