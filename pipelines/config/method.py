"""The choices of the method family: where states come from, where the expert is asked, who answers, what is minimised."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipelines.config.base import Finite, Section, Share

Coordinate = Literal["index", "sigma", "logsnr"]
Granularity = Literal["sample", "microbatch", "step"]


class StudentOde(Section):
    """States of the student's own ODE: on-policy, the paper's choice."""

    type: Literal["student_ode"] = "student_ode"


class StudentSde(Section):
    """States of the student's own stochastic rollout."""

    type: Literal["student_sde"]
    eta: PositiveFloat = Field(default=0.7, description="strength of the noise")


class NoisedData(Section):
    """The rows' target images, noised: off-policy."""

    type: Literal["noised_data"]
    target: Literal["expert", "data"] = Field(
        default="expert", description="data is supervised training: the velocity eps - x_0"
    )


class ExpertRollout(Section):
    """States of the expert's own ODE: off-policy."""

    type: Literal["expert_rollout"]


State = Annotated[StudentOde | StudentSde | NoisedData | ExpertRollout, Field(discriminator="type")]


class BetaQuery(Section):
    """Points Beta(a, b) from noise (0) to clean (1)."""

    type: Literal["beta"] = "beta"
    a: PositiveFloat = 5.0
    b: PositiveFloat = 2.0
    coordinate: Coordinate = "index"
    k: PositiveInt = Field(default=1, description="queries per sample, at different states of one rollout")


class UniformQuery(Section):
    """Uniform points."""

    type: Literal["uniform"]
    coordinate: Coordinate = "index"
    k: PositiveInt = 1


class StratifiedQuery(Section):
    """Uniform points, spread evenly over consecutive samples."""

    type: Literal["stratified"]
    coordinate: Coordinate = "index"
    k: PositiveInt = 1


class FixedQuery(Section):
    """The same points for every sample."""

    type: Literal["fixed"]
    at: tuple[Share, ...] = Field(min_length=1, description="from noise (0) to clean (1)")
    coordinate: Coordinate = "index"


class DenseQuery(Section):
    """Every state of the rollout."""

    type: Literal["dense"]


Query = Annotated[BetaQuery | UniformQuery | StratifiedQuery | FixedQuery | DenseQuery, Field(discriminator="type")]


class HardRouting(Section):
    """One expert answers a sample."""

    type: Literal["hard"] = "hard"
    granularity: Granularity = Field(default="sample", description="what shares one draw")


class GroupedRouting(Section):
    """Every route in every optimizer step, in proportion to its weight."""

    type: Literal["grouped"]


class SoftRouting(Section):
    """A convex mix of several experts answers a sample; its rows are drawn as in hard routing."""

    type: Literal["soft"]
    granularity: Granularity = "sample"
    mix: dict[str, dict[str, Share]] | None = Field(
        default=None, description="route -> {expert: share}, shares sum to 1; none is every route's expert alike"
    )

    @model_validator(mode="after")
    def _shares_sum_to_1(self) -> "SoftRouting":
        for route, shares in (self.mix or {}).items():
            if abs((total := sum(shares.values())) - 1) > 1e-6:
                raise ValueError(f"mix.{route}: the shares sum to 1, not {total:g}")
        return self


Routing = Annotated[HardRouting | GroupedRouting | SoftRouting, Field(discriminator="type")]


class Mse(Section):
    """The velocity's mean squared error, the paper's objective."""

    type: Literal["mse"] = "mse"


class WeightedMse(Section):
    """The velocity's mean squared error times t^power; power 2 is the error of the clean image."""

    type: Literal["weighted_mse"]
    power: Finite


class TransitionKl(Section):
    """KL of the rollout's transitions, summed over a sample's queries, with each step's own dt."""

    type: Literal["transition_kl"]
    form: Literal["ode", "sde"] = Field(default="ode", description="sde is of a student_sde, with its eta")


class Pdm(Section):
    """The velocity's error plus `weight` times the error of the prompt's effect."""

    type: Literal["pdm"]
    weight: float = Field(ge=0, allow_inf_nan=False)


Objective = Annotated[Mse | WeightedMse | TransitionKl | Pdm, Field(discriminator="type")]


class Anchor(Section):
    """A frozen field that the student is held to, at its own states."""

    expert: str
    weight: float = Field(gt=0, allow_inf_nan=False, description="of the squared distance to its velocity")


Preset = Literal["danceopd", "diffusionopd", "flowopd", "offpolicy", "softmix", "joint_sft"]

_ON_POLICY: dict[str, Any] = {
    "state": {"type": "student_ode"},
    "query": {"type": "beta"},
    "routing": {"type": "hard"},
    "objective": {"type": "mse"},
}
PRESETS: dict[str, dict[str, Any]] = {
    "danceopd": _ON_POLICY,
    "softmix": _ON_POLICY | {"routing": {"type": "soft"}},
    "diffusionopd": {
        "state": {"type": "student_ode"},
        "query": {"type": "dense"},
        "routing": {"type": "grouped"},
        "objective": {"type": "transition_kl", "form": "ode"},
    },
    "flowopd": {
        "state": {"type": "student_sde", "eta": 0.7},
        "query": {"type": "dense"},
        "routing": {"type": "hard", "granularity": "step"},
        "objective": {"type": "transition_kl", "form": "sde"},
    },
    "offpolicy": _ON_POLICY | {"state": {"type": "noised_data"}, "query": {"type": "uniform"}},
    "joint_sft": _ON_POLICY | {"state": {"type": "noised_data", "target": "data"}, "query": {"type": "uniform"}},
}


def expand(content: dict[str, Any]) -> dict[str, Any]:
    """Fill the axes that a preset decides, and the types that the defaults imply; what the user wrote stays.

    A key below an axis keeps the preset's type: `query: {k: 2}` under `danceopd` is Beta(5, 2) with two queries.
    """
    axes = PRESETS.get(str(content.get("preset")), {})
    expanded = dict(content)
    for axis, default in _ON_POLICY.items():
        written = content.get(axis, {})
        start = axes.get(axis, {"type": default["type"]})
        if isinstance(written, dict):
            expanded[axis] = {**start, **written} if written.get("type", start["type"]) == start["type"] else written
    return expanded
