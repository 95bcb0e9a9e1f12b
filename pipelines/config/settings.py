"""What a run is called, where it is written, how long it is."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from pipelines.config.base import Name, Section


class RunSettings(Section):
    """What is run, where it is written."""

    name: Name = Field(default="scene", description="of the run's folder, actors and applications")
    dir: Path = Field(
        default=Path("runs"),
        description="parent of the run's folder, which the learner's nodes must see; a URI is put into checkpoint.mirror",
    )
    services: Name | None = Field(
        default=None, description="standing services that the run uses (pipelines.serve_experts); none deploys its own"
    )
    steps: NonNegativeInt = Field(default=600, description="optimizer steps; with 0 the student's start is evaluated alone")
    seed: int = Field(default=0, ge=0, lt=2**64, description="decides every random number of the run")
    watchdog_s: PositiveFloat = Field(
        default=120.0,
        description="seconds after which who gives no sign counts as hung: a learner that does not answer is started anew, so "
        "is a rollout worker whose call also takes ten times longer than any before; a service is asked again for a forward; "
        "after so long without a step the run says who waits for whom",
    )
    profile: Path | None = Field(
        default=None,
        description="folder for traces of about three steps of every process that computes velocities; none traces nothing",
    )
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = Field(default=("tensorboard",), description="beside metrics.jsonl")

    def application_name(self, service: str) -> str:
        """The Serve application of one of the run's services; a standing one never has the name of a run's own."""
        return f"{self.services}:{service}" if self.services else f"{self.name}-{service}"

    @property
    def services_owner(self) -> str:
        """What the services' own metrics name as their run: the run, or the standing set, which no single run owns."""
        return self.services or self.name
