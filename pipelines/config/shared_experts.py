"""Which experts can share one copy of the base, told from the configuration alone."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.config.run import RunConfig


def check_shared_experts(config: "RunConfig") -> None:
    """Refuse to share a base between experts that have another, or as one application what asks for different resources.

    Raises:
        ValueError: names the key, the value and what is allowed.
    """
    shared = config.shared_experts
    for name, expert in shared.items():
        for network in sorted(config.networks(name)):
            if config.experts[network].checkpoint is not None:
                raise ValueError(
                    f"experts.{name}.placement: shared experts are adapters over the base; {network!r} has a checkpoint"
                )
            if (own := expert.quantization) != (other := config.experts[network].quantization):
                raise ValueError(
                    f"experts.{name}.quantization: {own}, but experts.{network} has {other}; shared experts have one base"
                )
        first = next(iter(shared))
        for key in ("quantization", "replicas", "autoscaling", "ranks", "num_cpus", "num_gpus", "node_labels"):
            own, others = getattr(expert, key), getattr(shared[first], key)
            if own != others:
                raise ValueError(
                    f"experts.{name}.{key}: {own}, but experts.{first} has {others}; shared experts are one application"
                )
