"""The choices of the method family: where states come from, where the expert is asked, what is minimised.

Each section builds its part of the method (`build`, `solver`). The method's modules load torch, so they are imported
there: reading a configuration needs none of it.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from fields.method.times import Coordinate
from pipelines.config.base import Finite, Section, Share

if TYPE_CHECKING:
    from fields.method.objective import Objective
    from fields.method.query import QueryDistribution
    from fields.method.solver import Solver


class _State(Section):
    """Where the states come from at which experts are asked."""

    expert_rolls_out: ClassVar[bool] = False
    reads_targets: ClassVar[bool] = False  # whether training reads the rows' target images

    @property
    def asks_experts(self) -> bool:
        """Whether the targets are experts' answers."""
        return True

    def solver(self, ode: "Solver") -> "Solver | None":
        """What solves the rollouts that training asks at, given the rollout's own ODE solver; None noises data instead."""
        return ode


class StudentOdeConfig(_State):
    """States of the student's own ODE: on-policy, the paper's choice."""

    type: Literal["student_ode"] = "student_ode"


class StudentSdeConfig(_State):
    """States of the student's own stochastic rollout."""

    type: Literal["student_sde"]
    eta: PositiveFloat = Field(default=0.7, description="strength of the noise")

    def solver(self, ode: "Solver") -> "Solver | None":
        from fields.method.solver import EulerMaruyama

        return EulerMaruyama(self.eta)


class NoisedDataConfig(_State):
    """The rows' target images, noised: off-policy."""

    type: Literal["noised_data"]
    target: Literal["expert", "data"] = Field(
        default="expert", description="data is supervised training: the velocity eps - x_0"
    )
    reads_targets: ClassVar[bool] = True

    @property
    def asks_experts(self) -> bool:
        return self.target == "expert"

    def solver(self, ode: "Solver") -> "Solver | None":
        return None


class ExpertRolloutConfig(_State):
    """States of the expert's own ODE: off-policy."""

    type: Literal["expert_rollout"]
    expert_rolls_out: ClassVar[bool] = True


StateConfig = Annotated[
    StudentOdeConfig | StudentSdeConfig | NoisedDataConfig | ExpertRolloutConfig, Field(discriminator="type")
]


class BetaQueryConfig(Section):
    """Points Beta(a, b) from noise (0) to clean (1)."""

    type: Literal["beta"] = "beta"
    a: PositiveFloat = 5.0
    b: PositiveFloat = 2.0
    coordinate: Coordinate = "index"
    k: PositiveInt = Field(default=1, description="queries per sample, at different states of one rollout")

    def build(self) -> "QueryDistribution":
        """The distribution of query points."""
        from fields.method.query import BetaQuery

        return BetaQuery(self.a, self.b, self.coordinate, self.k)


class UniformQueryConfig(Section):
    """Uniform points."""

    type: Literal["uniform"]
    coordinate: Coordinate = "index"
    k: PositiveInt = 1

    def build(self) -> "QueryDistribution":
        """The distribution of query points."""
        from fields.method.query import UniformQuery

        return UniformQuery(self.coordinate, self.k)


class StratifiedQueryConfig(Section):
    """Uniform points, spread evenly over consecutive samples."""

    type: Literal["stratified"]
    coordinate: Coordinate = "index"
    k: PositiveInt = 1

    def build(self) -> "QueryDistribution":
        """The distribution of query points."""
        from fields.method.query import StratifiedQuery

        return StratifiedQuery(self.coordinate, self.k)


class FixedQueryConfig(Section):
    """The same points for every sample."""

    type: Literal["fixed"]
    at: tuple[Share, ...] = Field(min_length=1, description="from noise (0) to clean (1)")
    coordinate: Coordinate = "index"

    def build(self) -> "QueryDistribution":
        """The distribution of query points."""
        from fields.method.query import FixedQuery

        return FixedQuery(self.at, self.coordinate)


class DenseQueryConfig(Section):
    """Every state of the rollout."""

    type: Literal["dense"]

    def build(self) -> "QueryDistribution":
        """The distribution of query points."""
        from fields.method.query import DenseQuery

        return DenseQuery()


QueryConfig = Annotated[
    BetaQueryConfig | UniformQueryConfig | StratifiedQueryConfig | FixedQueryConfig | DenseQueryConfig,
    Field(discriminator="type"),
]


class MseConfig(Section):
    """The velocity's mean squared error, the paper's objective."""

    type: Literal["mse"] = "mse"

    def build(self, state: "StateConfig") -> "Objective":
        """The objective for states of this kind."""
        from fields.method.objective import VelocityMse

        return VelocityMse()


class WeightedMseConfig(Section):
    """The velocity's mean squared error times t^power; power 2 is the error of the clean image."""

    type: Literal["weighted_mse"]
    power: Finite

    def build(self, state: "StateConfig") -> "Objective":
        """The objective for states of this kind."""
        from fields.method.objective import VelocityMse

        return VelocityMse(self.power)


class TransitionKlConfig(Section):
    """KL of the rollout's transitions, summed over a sample's queries, with each step's own dt."""

    type: Literal["transition_kl"]
    form: Literal["ode", "sde"] = Field(default="ode", description="sde is of a student_sde, with its eta")

    def build(self, state: "StateConfig") -> "Objective":
        """The objective for states of this kind."""
        from fields.method.objective import TransitionKl

        return TransitionKl(state.eta if self.form == "sde" and isinstance(state, StudentSdeConfig) else None)


class PdmConfig(Section):
    """The velocity's error plus `weight` times the error of the prompt's effect."""

    type: Literal["pdm"]
    weight: float = Field(ge=0, allow_inf_nan=False)

    def build(self, state: "StateConfig") -> "Objective":
        """The objective for states of this kind."""
        from fields.method.objective import PredictionDifference

        return PredictionDifference(self.weight)


ObjectiveConfig = Annotated[MseConfig | WeightedMseConfig | TransitionKlConfig | PdmConfig, Field(discriminator="type")]


class AnchorConfig(Section):
    """A frozen field that the student is held to, at its own states."""

    expert: str
    weight: float = Field(gt=0, allow_inf_nan=False, description="of the squared distance to its velocity")
