"""What a run needs of GPUs, hosts and the network between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from statistics import fmean

from fields.families.base import Family
from fields.memory.cost import Pass
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
        models: that student and experts are of.
        download: bytes of the files of all models, in the types that they compute in.
        sample_bytes: that travel for each query of a sample: its state, its target, and its conditions, one for each model.
        work: for each sample, in forwards.
        rollout_flops: of a sample's rollout.
        expert_flops: service of experts -> of a forward of their networks at a sample.
        learner_flops: of a sample's forward and backward at a query.
    """

    gpu: str
    micro_batch: int
    recompute: bool
    merge: bool
    footprints: list[Footprint]
    models: int
    download: float
    sample_bytes: float
    work: Work
    rollout_flops: float
    expert_flops: Mapping[str, float]
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
    state = 4 * prod(parts.family.latent_shape(footprints.largest.size))
    conditions = [_condition_bytes(family, footprints.largest) for family in parts.families.values()]
    work = Work.of(parts)
    forward = footprints.forward(group).flops / group
    return Needs(
        gpu=config.learner.gpu,
        micro_batch=micro_batch,
        recompute=recompute,
        merge=merge,
        footprints=processes,
        models=len(parts.families),
        download=sum(footprints.base_bytes(model) + family.encoder_bytes() for model, family in parts.families.items()),
        sample_bytes=2 * state + sum(conditions),
        work=work,
        rollout_flops=work.rollout_forwards * forward,
        expert_flops={service: _forward_flops(parts, footprints, service) for service in config.expert_services},
        learner_flops=footprints.update(micro_batch, recompute).flops / micro_batch,
    )


def _condition_bytes(family: Family, what: Pass) -> int:
    """Of the longest prompt's condition."""
    seen = what.seen_by(family)
    inputs = family.widest_inputs(1, seen.size, seen.sources)
    return sum(tensor.numel() * min(tensor.element_size(), family.dtype.itemsize) for tensor in inputs.values())


def _forward_flops(parts: RunParts, footprints: Footprints, service: str) -> float:
    """Of a forward of one sample by an application of experts, on average over the networks that they evaluate."""
    group, models = parts.config.rollout.group_size, map(parts.experts.model_name, parts.config.networks_of(service))
    return fmean(footprints.forward(group, "none", model).flops / group for model in models)
