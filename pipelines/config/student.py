"""The student in the configuration: what is trained, and where it starts."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from pipelines.config.base import Section


class StartAtBase(Section):
    """The student starts as the base."""

    type: Literal["base"] = "base"


class StartAtExpert(Section):
    """The student starts as one expert; a LoRA needs that adapter's rank and modules."""

    type: Literal["expert"]
    expert: str = Field(description="name of the expert")


class StartAtMerge(Section):
    """The student starts at a weighted sum of experts, a LoRA cut to its own rank."""

    type: Literal["merge"]
    experts: dict[str, float] = Field(min_length=1, description="expert -> weight")


class StartAtRegression(Section):
    """The student starts at the least-squares merge of the routes' experts, on their own activations (RegMean)."""

    type: Literal["regression"]
    rows: PositiveInt = Field(default=96, description="rows of each route that its expert is run on")


class StartAtAdapter(Section):
    """The student starts as an adapter of a file."""

    type: Literal["adapter"]
    adapter: Path = Field(description="LoRA over the base, a folder or a file")
    ignore_keys: tuple[str, ...] = Field(default=(), description="shell patterns of the adapter's keys that may be left out")


Start = Annotated[StartAtBase | StartAtExpert | StartAtMerge | StartAtRegression | StartAtAdapter, Field(discriminator="type")]


class LoraStudent(Section):
    """An adapter is trained, over the frozen base."""

    type: Literal["lora"] = "lora"
    rank: PositiveInt = Field(default=64, description="of every adapted module")
    alpha: PositiveFloat = Field(default=64.0, description="the adapter is scaled by alpha / rank")
    targets: tuple[str, ...] | None = Field(default=None, description="names of linear modules; none is the family's default")
    start: Start = StartAtBase()


class FullStudent(Section):
    """Every weight of the network is trained, in float32."""

    type: Literal["full"]
    start: Start = StartAtBase()
