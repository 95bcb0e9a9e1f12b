"""The frozen base in the configuration, and other models that experts are of."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from fields.registry import FAMILIES
from pipelines.config.base import Section
from pipelines.config.location import Location, fetched
from pipelines.config.quantization import Quantized

if TYPE_CHECKING:
    import torch

    from fields.data.size import Size
    from fields.families.base import Family


Dtype = Literal["float32", "bfloat16"]


def require_known(family: str) -> None:
    """Raise ValueError for a family that there isn't."""
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; allowed: {', '.join(FAMILIES)}")


class ModelConfig(Section):
    """The frozen base that student and experts share; its quantization is of learner and rollout workers, not of experts."""

    family: str = Field(default="scene", description="kind of model; docs/add-a-family.md lists them")
    path: Location = Field(
        default=Path("fields/scene/weights/base"), description="folder or URI of the base, or its id on the model hub"
    )
    dtype: Dtype = Field(default="float32", description="in which networks compute")
    quantization: Quantized = "none"
    width: PositiveInt | None = Field(
        default=None, description="of images in pixels, where a row doesn't say; none is the family's own"
    )
    height: PositiveInt | None = Field(default=None, description="of images in pixels; given with the width, or not at all")
    frames: PositiveInt | None = Field(
        default=None, description="of clips, where a row doesn't say; 1 is an image, none is the family's own"
    )

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
        require_known(self.family)
        return self

    @model_validator(mode="after")
    def _both_sides_or_none(self) -> "ModelConfig":
        if (self.width is None) != (self.height is None):
            raise ValueError(f"width {self.width} and height {self.height}: give both or none")
        return self

    @property
    def name(self) -> str:
        """Of a model beside the run's own: its family, and a sum over what tells it from others of the family."""
        told = json.dumps([self.model_dump(mode="json")[key] for key in ("path", "dtype")])
        return f"{self.family}-{hashlib.sha256(told.encode()).hexdigest()[:6]}"

    def build(self, device: "torch.device") -> "Family":
        """The model family; its encoders run on this device."""
        import torch

        family = FAMILIES[self.family]
        size = family.own_size.asked(self.width, self.height, self.frames)
        return family(fetched(self.path), getattr(torch, self.dtype), size, device)

    def made_for(self, size: "Size") -> "ModelConfig":
        """The same for images or clips of a size, where a row doesn't say one."""
        return self.model_copy(update=size._asdict())


class ExpertModelConfig(Section):
    """A model that an expert is of instead of the run's: of another size or another family, in the same latent space."""

    family: str = Field(description="kind of model; docs/experts.md says which can teach which")
    path: Location = Field(description="folder or URI of the model, or its id on the model hub")
    dtype: Dtype | None = Field(default=None, description="in which its networks compute; none is model.dtype")

    @model_validator(mode="after")
    def _known_family(self) -> "ExpertModelConfig":
        require_known(self.family)
        return self

    def beside(self, model: ModelConfig) -> ModelConfig:
        """The same with what it takes from the run's own: the size of images, and the type where it says none."""
        taken = {"dtype": self.dtype or model.dtype, "quantization": "none"}
        return model.model_copy(update={"family": self.family, "path": self.path, **taken})
