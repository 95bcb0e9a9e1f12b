"""The frozen base in the configuration."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from fields.registry import FAMILIES
from pipelines.config.base import Section
from pipelines.config.location import Location, fetched
from pipelines.config.quantization import Quantized

if TYPE_CHECKING:
    import torch

    from fields.families.base import Family


class ModelConfig(Section):
    """The frozen base that student and experts share; its quantization is of learner and rollout workers, not of experts."""

    family: str = Field(default="scene", description="kind of model; docs/add-a-family.md lists them")
    path: Location = Field(
        default=Path("fields/scene/weights/base"), description="folder or URI of the base, or its id on the model hub"
    )
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="in which networks compute")
    quantization: Quantized = "none"
    width: PositiveInt | None = Field(
        default=None, description="of images in pixels, where a row doesn't say; none is the family's own"
    )
    height: PositiveInt | None = Field(default=None, description="of images in pixels; given with the width, or not at all")

    @field_validator("dtype", mode="before")
    @classmethod
    def _gradients_do_not_vanish(cls, dtype: object) -> object:
        """At 1024 px and 32 samples a gradient enters the network as 2.4e-7 of a velocity's error, and float16 ends at 6e-8."""
        if dtype == "float16":
            raise ValueError(
                "in float16 most gradients of large images are 0, and a student learns next to nothing; set bfloat16 or float32"
            )
        return dtype

    @model_validator(mode="after")
    def _known_family(self) -> "ModelConfig":
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family {self.family!r}; allowed: {', '.join(FAMILIES)}")
        return self

    @model_validator(mode="after")
    def _both_sides_or_none(self) -> "ModelConfig":
        if (self.width is None) != (self.height is None):
            raise ValueError(f"width {self.width} and height {self.height}: give both or none")
        return self

    def build(self, device: "torch.device") -> "Family":
        """The model family; its encoders run on this device."""
        import torch

        size = None if self.width is None or self.height is None else (self.width, self.height)
        return FAMILIES[self.family](fetched(self.path), getattr(torch, self.dtype), size, device)
