"""Who answers a sample: the expert of its route, a mix of several, or those that its row's own scores name."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from fields.method.routing import ChangingRouting, Granularity, GroupedRouting, HardRouting, Routing
from fields.method.scoring import Answer, Scoring, Shares
from pipelines.config.base import Section, Share

if TYPE_CHECKING:
    from pipelines.config.run import RunConfig


class _ByRoute(Section):
    """Routing in which the expert of a route answers its samples, where their rows don't decide it."""

    @property
    def one_answers(self) -> bool:
        """Whether one expert answers a sample."""
        return True

    def shares(self, experts: Mapping[str, str]) -> dict[str, Shares]:
        """Route -> the experts that answer it with their shares, given route -> its expert."""
        return {route: {expert: 1.0} for route, expert in experts.items()}


class HardRoutingConfig(_ByRoute):
    """One expert answers a sample."""

    type: Literal["hard"] = "hard"
    granularity: Granularity = Field(default="sample", description="what shares one draw")

    def build(self, weights: Mapping[str, float]) -> HardRouting:
        """The draw of routes by their weights."""
        return HardRouting(weights, self.granularity)


class GroupedRoutingConfig(_ByRoute):
    """Every route in every optimizer step, in proportion to its weight."""

    type: Literal["grouped"]

    def build(self, weights: Mapping[str, float]) -> GroupedRouting:
        """The division of every optimizer step among routes by their weights."""
        return GroupedRouting(weights)


class SoftRoutingConfig(Section):
    """A convex mix of several experts answers a sample; its rows are drawn as in hard routing."""

    type: Literal["soft"]
    granularity: Granularity = "sample"
    mix: dict[str, dict[str, Share]] | None = Field(
        default=None, description="route -> {expert: share}, shares sum to 1; none is every route's expert alike"
    )

    @property
    def one_answers(self) -> bool:
        """Whether one expert answers a sample."""
        return False

    @model_validator(mode="after")
    def _shares_sum_to_1(self) -> "SoftRoutingConfig":
        for route, shares in (self.mix or {}).items():
            if abs((total := sum(shares.values())) - 1) > 1e-6:
                raise ValueError(f"mix.{route}: the shares sum to 1, not {total:g}")
        return self

    def build(self, weights: Mapping[str, float]) -> HardRouting:
        """The draw of routes by their weights."""
        return HardRouting(weights, self.granularity)

    def shares(self, experts: Mapping[str, str]) -> dict[str, Shares]:
        """Route -> the experts that answer it with their shares, given route -> its expert."""
        names = list(dict.fromkeys(experts.values()))
        mix = self.mix or {route: {name: 1 / len(names) for name in names} for route in experts}
        return {route: {name: share for name, share in mix[route].items() if share > 0} for route in experts}


class ScoredRoutingConfig(_ByRoute):
    """Rows that need several skills: their own scores (column `scores`) decide who answers; a row without is its route's."""

    type: Literal["scored"]
    granularity: Granularity = "sample"
    answer: Answer = Field(
        default="drawn",
        description="by one expert, drawn by the scores; by the mean of all under the scores (mixed); or by v_u + the sum of "
        "w_i (v_i - v_u), with w_i = the score of expert i's routes / the highest (composed)",
    )
    unconditional: str | None = Field(default=None, description="the expert whose velocity is v_u; for answer composed alone")

    @property
    def one_answers(self) -> bool:
        """Whether one expert answers a sample."""
        return self.answer == "drawn"

    @model_validator(mode="after")
    def _composed_has_an_unconditional(self) -> "ScoredRoutingConfig":
        self.scoring({})
        return self

    def build(self, weights: Mapping[str, float]) -> HardRouting:
        """The draw of the routes whose rows are trained on, by their weights."""
        return HardRouting(weights, self.granularity)

    def scoring(self, experts: Mapping[str, str]) -> Scoring:
        """From scores to experts, given route -> its expert."""
        return Scoring(experts=experts, answer=self.answer, unconditional=self.unconditional)


RoutingConfig = Annotated[
    HardRoutingConfig | GroupedRoutingConfig | SoftRoutingConfig | ScoredRoutingConfig, Field(discriminator="type")
]


def routes_drawn(config: "RunConfig") -> Routing:
    """How the routes of a run's samples are drawn, also where weights change."""
    stages = {step: config.routing.build(weights) for step, weights in config.route_weights.items()}
    return stages[0] if len(stages) == 1 else ChangingRouting(stages)


def named_experts(routing: RoutingConfig) -> Iterator[tuple[str, str]]:
    """Every expert that a routing names, with its key."""
    if isinstance(routing, SoftRoutingConfig):
        for route, shares in (routing.mix or {}).items():
            yield from ((f"routing.mix.{route}.{name}", name) for name in shares)
    if isinstance(routing, ScoredRoutingConfig) and routing.unconditional is not None:
        yield "routing.unconditional", routing.unconditional


def check_routing(config: "RunConfig") -> None:
    """Compare a routing with the routes, and with the steps and states that it is for.

    Raises:
        ValueError: names the key, the value and what is allowed.
    """
    routing, size, group = config.routing, config.learner.batch_size, config.rollout.group_size
    if config.state.expert_rolls_out and not routing.one_answers:
        raise ValueError("state.type: an expert_rollout needs the one expert of hard, grouped, or drawn scored routing")
    if isinstance(routing, SoftRoutingConfig) and routing.mix is not None and routing.mix.keys() != config.routes.keys():
        raise ValueError(f"routing.mix: it names {', '.join(routing.mix)}; the routes are {', '.join(config.routes)}")
    if isinstance(routing, ScoredRoutingConfig) and not config.state.asks_experts:
        raise ValueError("routing.type: scored says which experts answer; with state.target data no expert is asked")
    for weights in config.route_weights.values() if isinstance(routing, GroupedRoutingConfig) else ():
        if absent := GroupedRouting(weights).absent(size):
            raise ValueError(
                f"routing.type: grouped has every route in every step; a batch_size of {size} has no room for {absent[0]!r}"
            )
    if not isinstance(routing, GroupedRoutingConfig) and routing.granularity == "microbatch" and size % group:
        raise ValueError(
            f"routing.granularity microbatch: learner.batch_size {size} is no multiple of rollout.group_size {group}"
        )
