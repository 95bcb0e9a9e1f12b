"""Which frozen weights several processes can share, told from the configuration alone."""

from typing import TYPE_CHECKING

from pipelines.config.student import FullStudentConfig

if TYPE_CHECKING:
    from pipelines.config.run import RunConfig


def check_frozen_weights(config: "RunConfig") -> None:
    """Refuse to share weights that are trained, or quantized: FSDP2 cuts tensors of one type into equal parts.

    Raises:
        ValueError: names the key, the value and what is allowed.
    """
    shard, ranks, base = config.learner.shard, config.rollout.ranks, config.model.quantization
    if isinstance(config.student, FullStudentConfig):
        if ranks > 1:
            raise ValueError(f"rollout.ranks: {ranks} processes share a frozen base; allowed for student.type full: 1")
        if not config.rollout.merges:
            raise ValueError("rollout.merge: false keeps an adapter beside the base; allowed for student.type full: true")
    if base != "none" and shard:
        raise ValueError(f"learner.shard: true shares weights of model.dtype, and model.quantization is {base}; allowed: false")
    if base != "none" and ranks > 1:
        raise ValueError(f"rollout.ranks: {ranks} share weights of model.dtype, and model.quantization is {base}; allowed: 1")
    for name, expert in config.experts.items():
        for network in sorted(config.networks(name)) if expert.ranks > 1 else ():
            if (kind := config.experts[network].quantization) != "none":
                raise ValueError(
                    f"experts.{name}.ranks: {expert.ranks} share weights of model.dtype, and experts.{network}.quantization is "
                    f"{kind}; allowed: 1"
                )
