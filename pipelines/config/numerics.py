"""How the processes of a run compute, in the configuration."""

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from pipelines.config.base import Section

if TYPE_CHECKING:
    from fields.numerics import Numerics


class NumericsConfig(Section):
    """How every process of the run computes, its services' too."""

    deterministic: bool = Field(
        default=True,
        description="the same seed gives the same bits, on one kind of device; false frees the fastest kernels, and TF32",
    )
    threads: PositiveInt = Field(default=1, description="torch threads of every process; part of what makes runs equal")

    @property
    def promise(self) -> str:
        """What the same seed gives again, in words."""
        if self.deterministic:
            return "the same seed gives the same bits, on one kind of device"
        return "the same seed does not give the same bits (numerics.deterministic: false)"

    def build(self) -> "Numerics":
        """What each process settles."""
        from fields.numerics import Numerics

        return Numerics(threads=self.threads, deterministic=self.deterministic)
