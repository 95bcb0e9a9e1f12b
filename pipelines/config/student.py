"""The student in the configuration: what is trained, and where it starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import Field, PositiveInt

from pipelines.config.base import Finite, Positive, Section
from pipelines.config.location import Location

if TYPE_CHECKING:
    from torch import nn

    from fields.carriers import Tensors
    from fields.lora.adapter import Adapter, LoraShape
    from fields.student import FullStudent, LoraStudent


class StartSources(Protocol):
    """What a student can start from."""

    @property
    def transformer(self) -> "nn.Module":
        """The bare base."""
        ...

    def expert_adapter(self, expert: str) -> "Adapter":
        """An expert's adapter over the base.

        Raises:
            ValueError: if it has none, or is a full checkpoint.
        """
        ...

    def expert_weights(self, expert: str) -> "Tensors":
        """An expert's network as a whole, its adapter merged in."""
        ...

    def file_adapter(self, path: Path, ignore_keys: Sequence[str]) -> "Adapter":
        """The adapter of a file."""
        ...

    def regression(self, rows: int, shape: "LoraShape") -> "Tensors":
        """The least-squares merge of the routes' experts, each run on so many rows of its route."""
        ...

    def untrained(self) -> "Tensors":
        """Random weights of the whole network, drawn by the run's seed."""
        ...


class StartAtBaseConfig(Section):
    """The student starts as the base."""

    type: Literal["base"] = "base"

    def lora(self, sources: StartSources, shape: "LoraShape") -> "Tensors | None":
        """The tensors of an adapter of this shape at its start; None is an adapter that changes nothing."""
        return None

    def full(self, sources: StartSources) -> "Tensors | None":
        """The weights of the whole network at its start; None is the base's own."""
        return None


class StartAtExpertConfig(Section):
    """The student starts as one expert; a LoRA needs that adapter's rank and modules."""

    type: Literal["expert"]
    expert: str = Field(description="name of the expert")

    def lora(self, sources: StartSources, shape: "LoraShape") -> "Tensors | None":
        from fields.lora.merge import rescaled
        from pipelines.config.start_shape import require_shape

        adapter = sources.expert_adapter(self.expert)
        require_shape(f"experts.{self.expert}.adapter", adapter, shape, sources.transformer)
        return rescaled(adapter, shape)

    def full(self, sources: StartSources) -> "Tensors | None":
        return sources.expert_weights(self.expert)


class StartAtMergeConfig(Section):
    """The student starts at a weighted sum of experts, a LoRA cut to its own rank."""

    type: Literal["merge"]
    experts: dict[str, Finite] = Field(min_length=1, description="expert -> weight")

    def lora(self, sources: StartSources, shape: "LoraShape") -> "Tensors | None":
        from fields.lora.adapter import adapted_modules
        from fields.lora.merge import combine
        from pipelines.config.start_shape import require_modules

        merged = combine({name: (sources.expert_adapter(name), weight) for name, weight in self.experts.items()}, shape)
        require_modules("student.start", adapted_modules(merged), shape, sources.transformer)
        return merged

    def full(self, sources: StartSources) -> "Tensors | None":
        from fields.lora.merge import combine_networks, merged_network

        experts = [(sources.expert_weights(name), weight) for name, weight in self.experts.items()]
        return combine_networks(merged_network(sources.transformer, None), experts)


class StartAtRegressionConfig(Section):
    """The student starts at the least-squares merge of the routes' experts, on their own activations (RegMean)."""

    type: Literal["regression"]
    rows: PositiveInt = Field(default=96, le=10**6, description="rows of each route that its expert is run on")

    def lora(self, sources: StartSources, shape: "LoraShape") -> "Tensors | None":
        from fields.lora.adapter import adapted_modules
        from pipelines.config.start_shape import require_modules

        merged = sources.regression(self.rows, shape)
        require_modules("student.start", adapted_modules(merged), shape, sources.transformer)
        return merged

    def full(self, sources: StartSources) -> "Tensors | None":
        raise ValueError("student.start: a merge by regression is an adapter; only a student of type lora can start from it")


class StartAtAdapterConfig(Section):
    """The student starts as an adapter of a file."""

    type: Literal["adapter"]
    adapter: Location = Field(description="LoRA over the base: a folder, a file or a URI")
    ignore_keys: tuple[str, ...] = Field(default=(), description="shell patterns of the adapter's keys that may be left out")

    def lora(self, sources: StartSources, shape: "LoraShape") -> "Tensors | None":
        from fields.lora.merge import rescaled
        from pipelines.config.start_shape import require_shape

        adapter = sources.file_adapter(self.adapter, self.ignore_keys)
        require_shape("student.start.adapter", adapter, shape, sources.transformer)
        return rescaled(adapter, shape)

    def full(self, sources: StartSources) -> "Tensors | None":
        from fields.lora.merge import merged_network

        return merged_network(sources.transformer, sources.file_adapter(self.adapter, self.ignore_keys))


class StartAtRandomConfig(Section):
    """The student starts with random weights, to tell what the base contributes; of full students alone."""

    type: Literal["random"]

    def lora(self, sources: StartSources, shape: "LoraShape") -> "Tensors | None":
        raise ValueError("student.start: random weights are a whole network's; only a student of type full can start from them")

    def full(self, sources: StartSources) -> "Tensors | None":
        return sources.untrained()


Start = Annotated[
    StartAtBaseConfig
    | StartAtExpertConfig
    | StartAtMergeConfig
    | StartAtRegressionConfig
    | StartAtAdapterConfig
    | StartAtRandomConfig,
    Field(discriminator="type"),
]


class LoraStudentConfig(Section):
    """An adapter is trained, over the frozen base."""

    type: Literal["lora"] = "lora"
    rank: PositiveInt = Field(default=64, le=2**16, description="of every adapted module")
    alpha: Positive = Field(default=64.0, le=1e6, description="the adapter is scaled by alpha / rank")
    targets: tuple[str, ...] | None = Field(default=None, description="names of linear modules; none is the family's default")
    start: Start = StartAtBaseConfig()
    starts_from_weights: ClassVar[bool] = False  # whether a start may be computed from the values of the base's weights

    def build(self, default_targets: tuple[str, ...]) -> "LoraStudent":
        """What is trained, in a family with these default targets."""
        from fields.lora.adapter import LoraShape
        from fields.student import LoraStudent

        return LoraStudent(LoraShape(self.rank, self.alpha, self.targets or default_targets))

    def start_tensors(self, sources: StartSources, default_targets: tuple[str, ...]) -> "Tensors | None":
        """The trainable tensors at the start; None is the base."""
        return self.start.lora(sources, self.build(default_targets).shape)


class FullStudentConfig(Section):
    """Every weight of the network is trained, in float32."""

    type: Literal["full"]
    start: Start = StartAtBaseConfig()
    starts_from_weights: ClassVar[bool] = True

    def build(self, default_targets: tuple[str, ...]) -> "FullStudent":
        """What is trained; targets are an adapter's."""
        from fields.student import FullStudent

        return FullStudent()

    def start_tensors(self, sources: StartSources, default_targets: tuple[str, ...]) -> "Tensors | None":
        """The trainable tensors at the start; None is the base."""
        return self.start.full(sources)
