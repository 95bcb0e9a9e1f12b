"""The evaluation in the configuration: what experts and student are asked, and what is measured of their answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from pipelines.config.base import MOST_STEPS, Name, Section, Shift

if TYPE_CHECKING:
    from fields.evaluation.metrics import Metric


class ClipScoreConfig(Section):
    """How near images are to their prompts in CLIP's space; needs the package torchmetrics."""

    type: Literal["clip_score"]
    weights: Path = Field(description="folder of a CLIP model as transformers saves it")

    def build(self) -> "Metric":
        """The metric; what it loads is loaded when it is first taken."""
        from fields.evaluation.metrics import ClipScore

        return ClipScore(self.weights)


class FidConfig(Section):
    """How far images are from real ones in the space of an extractor's features; needs the package torchmetrics."""

    type: Literal["fid"]
    weights: Path = Field(description="TorchScript file of a feature extractor, such as Inception's")
    real: Path | None = Field(default=None, description="folder of real images; none is the target images of the rows")

    def build(self) -> "Metric":
        """The metric; what it loads is loaded when it is first taken."""
        from fields.evaluation.fid import Fid

        return Fid(self.weights, self.real)


MetricConfig = Annotated[ClipScoreConfig | FidConfig, Field(discriminator="type")]


class EvaluationConfig(Section):
    """What experts and student are asked: the scene world's exam, or image grids of the routes' first rows."""

    type: Literal["exam", "grids"] | None = Field(
        default=None, description="none is exam for the scene family, grids for others"
    )
    every: int = Field(default=200, ge=0, description="optimizer steps; 0 is no evaluation, before and after included")
    samples: PositiveInt = Field(default=24, description="questions per category, or rows per route")
    steps: PositiveInt | None = Field(
        default=None, le=MOST_STEPS, description="Euler steps of an answer; none is the rollout's"
    )
    shift: Shift | None = Field(default=None, description="of their time grid; none is the rollout's")
    seed: int = Field(default=1, ge=0, lt=2**64, description="of questions and noise")
    metrics: dict[Name, MetricConfig] = Field(default={}, description="taken of the grids of every route")
