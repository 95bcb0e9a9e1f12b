"""Experts and the encoder in the configuration: what they are, and what their services get of the cluster."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from pipelines.config.base import Section
from pipelines.config.location import Location
from pipelines.config.model import ExpertModelConfig
from pipelines.config.operators import SELF, Operator
from pipelines.config.quantization import Quantized
from services.resources import Resources


def _at_most_one(num_gpus: float) -> float:
    """A process computes on cuda:0 alone; what it reserved beside that would stand idle."""
    if num_gpus > 1:
        raise ValueError(
            f"{num_gpus:g} GPUs for one process, which computes on one of them; allowed: 0 to 1. More replicas or workers use "
            "more GPUs; a model that one can't hold is shared by several processes with experts.NAME.ranks, rollout.ranks and "
            "learner.shard, or takes less with model.quantization and experts.NAME.quantization"
        )
    return num_gpus


def check_ranks(ranks: int, num_gpus: float) -> None:
    """Refuse processes that share a model's weights on one GPU.

    Raises:
        ValueError: names the key, the value and what is allowed.
    """
    if ranks > 1 and 0 < num_gpus < 1:
        raise ValueError(f"num_gpus: {num_gpus:g} of one of {ranks} ranks, which need a GPU each; allowed: 1, or 0 for the CPU")


Cpus = Annotated[float, Field(ge=0, description="CPUs of one process, in Ray's bookkeeping")]
Gpus = Annotated[
    float, Field(ge=0, description="GPUs of one process: at most 1; a fraction shares one"), AfterValidator(_at_most_one)
]
LabelKey = Annotated[str, Field(pattern=r"^([A-Za-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")]
NodeLabels = Annotated[dict[LabelKey, LabelValue], Field(description="Ray labels that its node must carry; none is any node")]


class AutoscalingConfig(Section):
    """Serve adds and removes replicas by itself, from `replicas` up."""

    most: PositiveInt = Field(description="replicas at most")
    target: PositiveFloat = Field(default=2.0, description="calls, in work or waiting, that each replica should have")


class ServiceConfig(Section):
    """What a service gets of the cluster."""

    replicas: PositiveInt = Field(default=1, description="with autoscaling the least")
    autoscaling: AutoscalingConfig | None = Field(
        default=None, description="none keeps the number, until pipelines.scale changes it"
    )
    num_cpus: Cpus = 1
    num_gpus: Gpus = 0
    node_labels: NodeLabels = Field(default={})

    @model_validator(mode="after")
    def _most_is_no_less(self) -> "ServiceConfig":
        if self.autoscaling and self.autoscaling.most < self.replicas:
            raise ValueError(f"autoscaling.most: {self.autoscaling.most} is less than replicas, {self.replicas}")
        return self

    def resources(self) -> Resources:
        """What its Serve deployment is given."""
        return Resources(
            replicas=self.replicas,
            most_replicas=self.autoscaling.most if self.autoscaling else None,
            target_calls=self.autoscaling.target if self.autoscaling else 0.0,
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            node_labels=self.node_labels,
        )


class ExpertConfig(ServiceConfig):
    """One frozen field, and what its service gets of the cluster."""

    ranks: PositiveInt = Field(
        default=1,
        description="processes of a replica, on one node, each with num_cpus and num_gpus, that share its weights; "
        "in the same bits",
    )

    model: ExpertModelConfig | None = Field(
        default=None, description="a base of its own, in the latent space of the run's; none is the run's"
    )
    checkpoint: Location | None = Field(default=None, description="a full model of the base's shape; none is the base itself")
    adapter: Location | None = Field(
        default=None, description="LoRA over the base or the checkpoint: a folder, a file or a URI"
    )
    ignore_keys: tuple[str, ...] = Field(default=(), description="shell patterns of the adapter's keys that may be left out")
    operator: Operator = SELF
    quantization: Quantized = "none"
    placement: Literal["separate", "shared"] = Field(
        default="separate",
        description="an application of its own, or one with the other shared experts and one copy of the base",
    )

    @model_validator(mode="after")
    def _every_rank_has_a_gpu(self) -> "ExpertConfig":
        check_ranks(self.ranks, self.num_gpus)
        return self

    def resources(self) -> Resources:
        return replace(super().resources(), ranks=self.ranks)

    def is_base(self, quantization: Quantized) -> bool:
        """Whether its answers are those of the base with weights in this kind of bits."""
        others = self.model is not None or self.checkpoint is not None or self.adapter is not None or self.operator != SELF
        return not others and self.quantization == quantization


class EncoderConfig(ServiceConfig):
    """The condition encoder's service."""

    cache_bytes: PositiveInt = Field(default=2**30, description="memory of the host in which a replica keeps encoded rows")
