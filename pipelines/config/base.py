"""What every part of the configuration is."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the configuration: immutable, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]
MOST_STEPS = 10_000  # from noise to clean: models are trained on 1000 noise levels; more only takes memory and time
Shift = Annotated[float, Field(ge=1e-3, le=1e3)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
