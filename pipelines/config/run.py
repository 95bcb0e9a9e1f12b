"""The run configuration: everything that a user edits, and every default."""

import json
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from fields.method.times import index_at, rollout_times
from pipelines.config import method as m
from pipelines.config.base import Name, Section
from pipelines.config.evaluation import EvaluationConfig
from pipelines.config.frozen_weights import check_frozen_weights
from pipelines.config.location import Location, is_uri
from pipelines.config.model import ModelConfig
from pipelines.config.numerics import NumericsConfig, check_compilation
from pipelines.config.operators import SELF, references
from pipelines.config.own_models import check_own_models, other_models
from pipelines.config.presets import Preset, expand
from pipelines.config.quantization import check_quantization
from pipelines.config.routing import HardRoutingConfig, RoutingConfig, check_routing, named_experts
from pipelines.config.services import EncoderConfig, ExpertConfig, ServiceConfig
from pipelines.config.settings import RunSettings
from pipelines.config.shared_experts import check_shared_experts
from pipelines.config.student import FullStudentConfig, LoraStudentConfig, StartAtExpertConfig, StartAtMergeConfig
from pipelines.config.training import CheckpointConfig, LearnerConfig, PublishConfig, RolloutConfig

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

BASE, BEFORE, AFTER = "base", "before", "after"  # who takes the exam beside the experts
STUDENT = "student"  # how the endpoint calls it beside the experts
SHARED = "shared"  # the application of experts that share a base
ENCODER = "encoder"
RESERVED = (BASE, BEFORE, AFTER, SHARED, ENCODER, STUDENT, "endpoint")


class RouteConfig(Section):
    """One kind of task: who answers it, and the rows it is trained on."""

    expert: str = Field(description="name of the expert that answers")
    data: Location = Field(
        description="path or URI of a Parquet file with the columns uid, task, prompt and others as docs/data.md lists them"
    )
    weight: Weight = Field(default=1.0, description="how often the route is drawn")
    weight_changes: dict[PositiveInt, Weight] = Field(default={}, description="other weights from given optimizer steps on")

    def weight_at(self, step: int) -> float:
        """The weight at an optimizer step."""
        changed = [first for first in self.weight_changes if first <= step]
        return self.weight_changes[max(changed)] if changed else self.weight


class RunConfig(Section):
    """One distillation."""

    run: RunSettings = RunSettings()
    numerics: NumericsConfig = NumericsConfig()
    model: ModelConfig = ModelConfig()
    experts: dict[Name, ExpertConfig] = Field(min_length=1)
    routes: dict[Name, RouteConfig] = Field(min_length=1)
    encoder: EncoderConfig = EncoderConfig()
    student: Annotated[LoraStudentConfig | FullStudentConfig, Field(discriminator="type")] = LoraStudentConfig()
    preset: Preset | None = Field(
        default=None,
        description="a named method: fills state, query, routing and objective; fast also rollouts, eval and the start",
    )
    state: m.StateConfig = m.StudentOdeConfig()
    query: m.QueryConfig = m.BetaQueryConfig()
    routing: RoutingConfig = HardRoutingConfig()
    objective: m.ObjectiveConfig = m.MseConfig()
    anchor: m.AnchorConfig | None = None
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerConfig = LearnerConfig()
    publish: PublishConfig = PublishConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if isinstance(run := content.get("run"), dict) and is_uri(uri := run.get("dir")):
            checkpoint = {"mirror": uri} | (content.get("checkpoint") or {})
            content = content | {"run": {name: value for name, value in run.items() if name != "dir"}, "checkpoint": checkpoint}
        if isinstance(student := content.get("student"), dict):  # so that `student.rank=8` alone says what it means
            content = content | {"student": {"type": "lora", **student}}
        return expand(content)

    @model_validator(mode="after")
    def _names_exist(self) -> "RunConfig":
        for key, expert in self._named_experts():
            if expert not in self.experts:
                raise ValueError(f"{key}: unknown expert {expert!r}; allowed: {', '.join(self.experts)}")
        return self

    def _named_experts(self) -> Iterator[tuple[str, str]]:
        """Every place where the configuration names an expert."""
        yield from ((f"routes.{name}.expert", route.expert) for name, route in self.routes.items())
        if isinstance(self.student.start, StartAtExpertConfig):
            yield "student.start.expert", self.student.start.expert
        if isinstance(self.student.start, StartAtMergeConfig):
            yield from ((f"student.start.experts.{name}", name) for name in self.student.start.experts)
        if self.anchor:
            yield "anchor.expert", self.anchor.expert
        yield from named_experts(self.routing)
        for name, expert in self.experts.items():
            yield from (pair for pair in references(expert.operator, f"experts.{name}.operator") if pair[1] != SELF)

    @model_validator(mode="after")
    def _evaluation_fits_the_family(self) -> "RunConfig":
        if self.evaluation_type == "exam" and self.model.family != "scene":
            raise ValueError(f"eval.type: 'exam' is for the family scene; allowed for {self.model.family}: grids")
        if self.eval.metrics and self.evaluation_type == "exam":
            raise ValueError("eval.metrics: the exam has its own marks; metrics are taken with eval.type: grids")
        return self

    @property
    def evaluation_type(self) -> Literal["exam", "grids"]:
        """The exam for the scene family, image grids for others, unless it is written."""
        return self.eval.type or ("exam" if self.model.family == "scene" else "grids")

    @model_validator(mode="after")
    def _operators_end(self) -> "RunConfig":
        for name in self.experts:
            self._follow(name, ())
        return self

    def _follow(self, name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ValueError(
                f"experts.{path[0]}.operator: the experts refer to each other in a circle: {' -> '.join((*path, name))}"
            )
        for _, other in references(self.experts[name].operator, ""):
            if other != SELF:
                self._follow(other, (*path, name))

    @model_validator(mode="after")
    def _queries_fit_the_rollout(self) -> "RunConfig":
        steps = self.rollout.steps
        if isinstance(self.query, m.FixedQueryConfig):
            if self.rollout.shift is None and self.model.family != "scene" and self.query.coordinate != "index":
                return self  # the model's own grid, which is not known here
            times = rollout_times(steps, self.rollout.shift or 1.0)
            states = {index_at(u, times, self.query.coordinate) for u in self.query.at}
            if len(states) < len(self.query.at):
                raise ValueError(f"query.at: {list(self.query.at)} are {len(states)} different states of {steps} rollout steps")
        elif not isinstance(self.query, m.DenseQueryConfig) and self.query.k > steps:
            raise ValueError(f"query.k: {self.query.k} queries per sample need as many rollout.steps; there are {steps}")
        return self

    @model_validator(mode="after")
    def _routing_fits_the_routes(self) -> "RunConfig":
        check_routing(self)
        return self

    @model_validator(mode="after")
    def _states_suit_the_rest(self) -> "RunConfig":
        if self.rollout.solver != "euler" and isinstance(self.state, m.StudentSdeConfig | m.NoisedDataConfig):
            raise ValueError(f"rollout.solver: {self.rollout.solver} solves an ODE; a state of type {self.state.type} has none")
        if isinstance(self.objective, m.PdmConfig) and not self.state.asks_experts:
            raise ValueError("objective.type: pdm needs an expert's answer; with state.target data no expert is asked")
        sde = isinstance(self.objective, m.TransitionKlConfig) and self.objective.form == "sde"
        if sde and not isinstance(self.state, m.StudentSdeConfig):
            raise ValueError(f"objective.form: sde is of the transitions of a student_sde; state.type is {self.state.type}")
        return self

    @model_validator(mode="after")
    def _only_an_adapter_has_a_frozen_base(self) -> "RunConfig":
        check_frozen_weights(self)
        return self

    @model_validator(mode="after")
    def _networks_can_be_kept_and_computed_so(self) -> "RunConfig":
        check_quantization(self)
        check_compilation(self)
        check_own_models(self)
        return self

    @model_validator(mode="after")
    def _micro_batches_are_parts_of_groups(self) -> "RunConfig":
        micro_batch, group = self.learner.micro_batch, self.rollout.group_size
        if micro_batch != "auto" and micro_batch > group:
            raise ValueError(f"learner.micro_batch: {micro_batch} is above rollout.group_size; allowed: 1 to {group}")
        return self

    @model_validator(mode="after")
    def _every_rank_has_a_group(self) -> "RunConfig":
        ranks, batch, group = self.learner.ranks, self.learner.batch_size, self.rollout.group_size
        if ranks > (most := ceil(batch / group)):
            raise ValueError(
                f"learner.ranks: {ranks} is above the batches that a step may have: {batch} samples (learner.batch_size) in "
                f"batches of {group} (rollout.group_size); allowed: 1 to {most}"
            )
        return self

    @property
    def route_weights(self) -> dict[int, dict[str, float]]:
        """First step -> the weights of all routes from there on, ascending from step 0."""
        steps = {0}.union(*(route.weight_changes for route in self.routes.values()))
        return {step: {name: route.weight_at(step) for name, route in self.routes.items()} for step in sorted(steps)}

    @model_validator(mode="after")
    def _names_are_free(self) -> "RunConfig":
        for name in self.experts:
            if name in RESERVED:
                raise ValueError(f"experts.{name}: the results of a run use the names {', '.join(RESERVED)}; call it otherwise")
        return self

    @model_validator(mode="after")
    def _shared_experts_can_share(self) -> "RunConfig":
        check_shared_experts(self)
        return self

    def networks(self, name: str) -> set[str]:
        """The experts whose networks an expert's operator evaluates."""
        named = {other for _, other in references(self.experts[name].operator, "")}
        own = {name} if SELF in named else set()
        return own.union(*(self.networks(other) for other in named - {SELF}))

    def networks_of(self, service: str) -> list[str]:
        """The experts whose networks a service of experts evaluates."""
        members = [name for name in self.experts if self.service_of(name) == service]
        return sorted(set[str]().union(*map(self.networks, members)))

    @property
    def shared_experts(self) -> dict[str, ExpertConfig]:
        """The experts that are placed in one application."""
        return {name: expert for name, expert in self.experts.items() if expert.placement == "shared"}

    @property
    def services(self) -> Mapping[str, ServiceConfig]:
        """The services of the run, with what each gets of the cluster: of experts, then of encoders."""
        return {**self.expert_services, **dict.fromkeys(self.encoders, self.encoder)}

    @property
    def expert_services(self) -> Mapping[str, ExpertConfig]:
        """Those of experts; experts that share a base have one."""
        return {self.service_of(name): expert for name, expert in self.experts.items()}

    @property
    def encoders(self) -> Mapping[str, str | None]:
        """Service of an encoder -> the model that it encodes for; None is the run's own."""
        return {ENCODER: None} | {f"{ENCODER}-{model}": model for model in other_models(self)}

    def service_of(self, expert: str) -> str:
        """The service that holds an expert."""
        return SHARED if self.experts[expert].placement == "shared" else expert

    @model_validator(mode="after")
    def _traces_are_of_training(self) -> "RunConfig":
        if self.run.profile is not None and self.eval.every:
            raise ValueError(
                "run.profile: traces are of the first forwards, which are those of an exam with eval.every: "
                f"{self.eval.every}; allowed: none, or eval.every: 0"
            )
        return self

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.dir / self.run.name


def schema() -> str:
    """The JSON schema of a run's configuration, as docs/config.schema.json holds it."""
    return json.dumps(RunConfig.model_json_schema(), indent=2) + "\n"
