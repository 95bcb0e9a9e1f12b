"""How the processes of a run compute, in the configuration."""

import shutil
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from pipelines.config.base import Section

if TYPE_CHECKING:
    from fields.numerics import Numerics
    from pipelines.config.run import RunConfig

_COMPILERS = ("g++", "clang++", "c++")  # torch.compile builds its kernels' hosts with one, also where Triton makes the kernels


class NumericsConfig(Section):
    """How every process of the run computes, its services' too."""

    deterministic: bool = Field(
        default=True,
        description="the same seed gives the same bits, on one kind of device; false frees the fastest kernels, and TF32",
    )
    compile: Literal["none", "regional"] = Field(
        default="none",
        description="regional compiles the networks' repeated blocks into fewer kernels, at every process's start",
    )
    threads: PositiveInt = Field(
        default=1, le=4096, description="torch threads of every process; part of what makes runs equal"
    )

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


def check_compilation(config: "RunConfig") -> None:
    """Refuse what blocks cannot be compiled for.

    Raises:
        ValueError: names the key, the value and what is allowed.
    """
    if config.numerics.compile == "none":
        return
    shared = {f"experts.{name}.ranks": expert.ranks > 1 for name, expert in config.experts.items()}
    shared |= {"rollout.ranks": config.rollout.ranks > 1, "learner.shard": config.learner.shard}
    for key in (key for key, shares in shared.items() if shares):
        raise ValueError(
            f"numerics.compile: regional compiles whole blocks, and {key} keeps a part of each in every process; allowed: none"
        )
    if not any(map(shutil.which, _COMPILERS)):
        raise ValueError(f"numerics.compile: regional needs a C++ compiler ({', '.join(_COMPILERS)}), and there is none here")
