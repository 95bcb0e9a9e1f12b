"""What a run needs of GPUs, hosts and the network between them."""

from dataclasses import dataclass
from math import prod

from pipelines.config.errors import ConfigError
from pipelines.config.run import RunConfig
from pipelines.parts.fit import choose, merges
from pipelines.parts.footprint import Footprint
from pipelines.parts.footprints import Footprints
from pipelines.parts.run_parts import RunParts
from pipelines.parts.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a run needs.

    Attributes:
        gpu: that every process is compared with.
        micro_batch: of the learner.
        recompute: whether the learner computes activations again.
        merge: whether rollout workers merge an adapter into the weights.
        footprints: of every kind of process.
        download: bytes of the base's files, in the type that it computes in.
        sample_bytes: that travel for each query of a sample: its state, its condition, its target.
        work: for each sample, in forwards.
        rollout_flops: of a sample's rollout.
        expert_flops: of one expert's forward at a sample.
        learner_flops: of a sample's forward and backward at a query.
    """

    gpu: str
    micro_batch: int
    recompute: bool
    merge: bool
    footprints: list[Footprint]
    download: float
    sample_bytes: float
    work: Work
    rollout_flops: float
    expert_flops: float
    learner_flops: float

    @staticmethod
    def of(config: RunConfig) -> "Needs":
        """What a configuration needs.

        Raises:
            ConfigError: if the base's configuration cannot be read, or the learner fits with no setting.
        """
        try:
            return _needs(config)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"model: {error}") from error

    @property
    def too_large(self) -> list[Footprint]:
        """The processes that don't fit."""
        return [one for one in self.footprints if one.num_gpus and not one.fits(self.gpu)]


def _needs(config: RunConfig) -> Needs:
    footprints, parts = Footprints(config), RunParts(config)
    group = config.rollout.group_size
    if config.learner.num_gpus:
        micro_batch, recompute = choose(footprints)
    else:
        given = config.learner.micro_batch
        micro_batch, recompute = group if given == "auto" else given, config.learner.recompute == "always"
    merge = merges(footprints)
    processes = footprints.all(micro_batch, recompute, merge)
    family = parts.family
    inputs = family.widest_inputs(1, footprints.largest.size, footprints.largest.edits)
    state = 4 * prod(family.latent_shape(footprints.largest.size))
    text = sum(tensor.numel() * min(tensor.element_size(), family.dtype.itemsize) for tensor in inputs.values())
    work = Work.of(parts)
    forward = footprints.forward(group).flops / group
    return Needs(
        gpu=config.learner.gpu,
        micro_batch=micro_batch,
        recompute=recompute,
        merge=merge,
        footprints=processes,
        download=footprints.base_bytes + family.encoder_bytes(),
        sample_bytes=2 * state + text,
        work=work,
        rollout_flops=work.rollout_forwards * forward,
        expert_flops=forward,
        learner_flops=footprints.update(micro_batch, recompute).flops / micro_batch,
    )
