"""The parts of a run, from its configuration. Services and actors get these, not the configuration's sections."""

from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any

import torch
from torch import nn

from actors.mirror import Mirror
from actors.schedule import Schedule
from fields.carriers import Tensors
from fields.compilation import M, compiled
from fields.data.bucket import Bucket
from fields.data.size import Size
from fields.distiller import Distiller
from fields.evaluation.base import Evaluation
from fields.evaluation.route_grids import RouteGrids
from fields.families.base import Family
from fields.field import Field
from fields.keeping import Keeping
from fields.memory.cost import Pass
from fields.method.lag import Lag
from fields.method.objective import Objective
from fields.method.plan import SamplePlan, Stream, generator
from fields.method.solver import Solver
from fields.method.states import RolloutSettings
from fields.method.teaching import Teaching
from fields.method.time_grid import Grid
from fields.policy import Policy
from fields.ranks.ranks import Ranks
from fields.registry import FAMILIES
from fields.scene.exam import Exam
from fields.scene.grammar import TWO_SKILLS
from fields.shared_field import SharedField
from fields.student import LoraStudent, Student
from fields.versions import Merged, Unmerged, Versions
from pipelines.config.location import fetched
from pipelines.config.model import ModelConfig
from pipelines.config.own_models import other_models
from pipelines.config.routing import routes_drawn
from pipelines.config.run import RunConfig
from pipelines.config.settings import RunSettings
from pipelines.parts.device import device
from pipelines.parts.expert_networks import ExpertNetworks
from pipelines.parts.largest_pass import largest_pass, sources_of
from pipelines.parts.row_scores import row_shares
from pipelines.parts.student_start import ConfiguredSources, SkeletonSources


class RunParts:
    """Builds each part of a run where it is first asked for.

    What travels to another process is the configuration alone: there every part is built anew, on that process's device.
    A property is built once in a process. A method loads weights, and builds anew each time.

    Args:
        config: of the run.
        rows: route -> number of its rows, as the files were checked; needed for the plan alone.
    """

    def __init__(self, config: RunConfig, rows: Mapping[str, int] | None = None):
        self.config = config
        self.rows = rows or {}

    def __reduce__(self) -> tuple[Any, tuple[Mapping[str, Any], Mapping[str, int]]]:
        # as it is written: another machine has other folders for what lies in object storage
        return _elsewhere, (self.config.model_dump(mode="json"), self.rows)

    def of_run(self, run: RunSettings) -> "RunParts":
        """The parts of a run of another name or seed, and everything else as it was checked for this one."""
        return RunParts(self.config.model_copy(update={"run": run}), self.rows)

    @cached_property
    def family(self) -> Family:
        """The model family; what it encodes here, it encodes on the CPU."""
        return self.config.model.build(device(0))

    @cached_property
    def families(self) -> dict[str | None, Family]:
        """The families of all models by their names: None is the run's own, the others are those that experts are of."""
        return {None: self.family} | {name: model.build(device(0)) for name, model in self.other_models.items()}

    @cached_property
    def other_models(self) -> dict[str, ModelConfig]:
        """The models beside the run's own that experts are of; a row that says no size has the same size in all of them."""
        size = self.family.default_size
        return {name: model.made_for(size) for name, model in other_models(self.config).items()}

    def encoder_family(self, model: str | None = None) -> Family:
        """The model family of an encoder's service, on the GPUs of that; None is of the run's own model."""
        of = self.config.model if model is None else self.other_models[model]
        return of.build(device(self.config.encoder.num_gpus))

    @cached_property
    def grid(self) -> Grid:
        """The rollout's times by size, the model's own or of one shift."""
        return self.family.times(self.config.rollout.steps, self.config.rollout.shift)

    @cached_property
    def exam_grid(self) -> Grid:
        """The times at which students and experts answer the exam, by size."""
        asked, rollout = self.config.eval, self.config.rollout
        return self.family.times(asked.steps or rollout.steps, asked.shift or rollout.shift)

    @cached_property
    def buckets(self) -> dict[str, Bucket]:
        """Route -> its rows."""
        return {name: self._bucket(name) for name in self.config.routes}

    @cached_property
    def plan(self) -> SamplePlan:
        """Which samples a step has."""
        config = self.config
        return SamplePlan(
            seed=config.run.seed,
            batch_size=config.learner.batch_size,
            group_size=config.rollout.group_size,
            routing=routes_drawn(config),
            query=config.query.build(),
            grid=self.grid,
            rows=dict(self.rows),
            size=self._size,
            shares=row_shares(config, self._scores),
            sources=cache(self._sources) if config.rollout.mix_routes else None,
        )

    @property
    def mirror(self) -> Mirror | None:
        """Where the run is copied to, if anywhere.

        Raises:
            ValueError: if nothing reads its URI.
        """
        uri = self.config.checkpoint.mirror
        return None if uri is None else Mirror(uri, self.config.run.name)

    @cached_property
    def largest_pass(self) -> Pass:
        """The largest group, as far as the files are here."""
        return largest_pass(self.config, self.family, branches=2 if self.objective.both_branches else 1)

    def _size(self, route: str, row: int) -> Size:
        """The size that a row asks for; the family's is that of what it doesn't say."""
        return self._bucket(route).size(row, self.family.default_size)

    def _sources(self, route: str) -> int:
        """The source images of each of a route's rows that the family reads."""
        return 0 if self.family.source == "none" else sources_of(fetched(self.config.routes[route].data))

    def _scores(self, route: str, row: int) -> Mapping[str, float] | None:
        return self._bucket(route).scores(row)

    @cached_property
    def _bucket(self) -> Callable[[str], Bucket]:
        """Opens a route's bucket at its first row: a plan can be made before the data is there."""
        return cache(lambda route: Bucket(fetched(self.config.routes[route].data)))

    @cached_property
    def solver(self) -> Solver | None:
        """Of the rollouts that training asks at; None noises data instead. Evaluation uses Euler."""
        return self.config.state.solver(self.config.rollout.ode_solver())

    @cached_property
    def objective(self) -> Objective:
        """What is minimised."""
        return self.config.objective.build(self.config.state)

    @cached_property
    def teaching(self) -> Teaching:
        """Which experts answer a route."""
        config = self.config
        experts = {name: route.expert for name, route in config.routes.items()}
        shares = config.routing.shares(experts) if config.state.asks_experts else {name: {} for name in experts}
        return Teaching(shares=shares, anchor=config.anchor.expert if config.anchor else None)

    @cached_property
    def evaluation(self) -> Evaluation:
        """What base, experts and student are asked."""
        settings = self.config.eval
        if self.config.evaluation_type == "exam":
            two_skills = self.config.routes.get(TWO_SKILLS)  # one that comes later is not asked about: exams are to be compared
            return Exam(settings.samples, settings.seed, two_skills is not None and two_skills.weight > 0)
        metrics = {name: metric.build() for name, metric in settings.metrics.items()}
        group_size = self.config.rollout.group_size
        return RouteGrids(self.buckets, settings.samples, settings.seed, self.family, group_size, metrics)

    @cached_property
    def student(self) -> Student:
        """What is trained."""
        return self.config.student.build(self._default_targets)

    @property
    def _default_targets(self) -> tuple[str, ...]:
        return FAMILIES[self.config.model.family].default_lora_targets

    @property
    def lag(self) -> Lag:
        """How far the rollouts are behind the learner, and which versions they get."""
        return Lag(self.config.learner.lag, self.config.publish.every)

    def schedule(self, start: int) -> Schedule:
        """When the run does what, from step `start` on."""
        config = self.config
        return Schedule(
            start=start,
            steps=config.run.steps,
            lag=self.lag,
            checkpoint_every=config.checkpoint.every,
            keeping=Keeping(config.checkpoint.keep, config.checkpoint.keep_every),
            evaluate_every=config.eval.every,
        )

    @cached_property
    def experts(self) -> ExpertNetworks:
        """The experts' networks and expressions."""
        return ExpertNetworks(self.config, self.families)

    def field(self, name: str, ranks: Ranks | None = None) -> Field:
        """One expert, whole or a rank's part of it."""
        return self._compiled(self.experts.field(name, ranks))

    def shared_field(self, ranks: Ranks | None = None) -> SharedField:
        """The experts that share one copy of the base, whole or a rank's part of them."""
        return self._compiled(self.experts.shared_field(list(self.config.shared_experts), ranks))

    def _compiled(self, model: M) -> M:
        """The model as it computes in this run."""
        if self.config.numerics.compile == "none":
            return model
        return compiled(model, branches=2 if self.objective.both_branches else 1)

    def rollouts(self, size: Size | None) -> RolloutSettings:
        """How the states of samples of a size are reached, by the student or by an expert."""
        both_branches = self.objective.both_branches
        return RolloutSettings(seed=self.config.run.seed, grid=self.grid(size), solver=self.solver, both_branches=both_branches)

    def policy(self, ranks: Ranks | None = None) -> Policy:
        """The student as it rolls out, whole or a rank's part of it."""
        on = device(self.config.rollout.num_gpus)
        return self._compiled(Policy(self.family, self._versions(), self.rollouts, on, ranks))

    def _versions(self) -> Versions:
        transformer = self.family.load_transformer(self.config.model.path, self.config.model.quantization)
        if self.config.rollout.merges:
            return Merged(transformer, self.student)
        assert isinstance(self.student, LoraStudent)
        return Unmerged(transformer, self.student.shape)

    @property
    def learner_device(self) -> torch.device:
        """Where the student learns."""
        return device(self.config.learner.num_gpus)

    def distiller(self, ranks: Ranks | None = None) -> Distiller:
        """The student as it learns, at its start, for one of these ranks."""
        config = self.config
        transformer = self.family.load_transformer(config.model.path, config.model.quantization)
        distiller = Distiller(
            self.family,
            transformer,
            self.student,
            config.learner.optimization(),
            seed=int(generator(config.run.seed, Stream.INITIALISATION, 0).integers(2**63)),
            start=self.start_tensors(transformer) if ranks is None or ranks.computes_start else None,
            objective=self.objective,
            anchor_weight=config.anchor.weight if config.anchor else 0.0,
            device=self.learner_device,
            ranks=ranks,
            largest=self.largest_pass,
        )
        return self._compiled(distiller)

    def start_tensors(self, transformer: nn.Module | None = None) -> Tensors | None:
        """The student's trainable tensors at its start; None is the base. `transformer` is the bare base, where it is loaded.

        Raises:
            ValueError: if there is nothing to start from, it cannot be read, or experts cannot be merged.
        """
        section, path = self.config.student, self.config.model.path
        if section.start.type == "base":
            return None
        if transformer is None:
            transformer = (self.family.load_transformer if section.starts_from_weights else self.family.skeleton)(path)
        return self._start_from(ConfiguredSources(self.config, self.family, self.experts, transformer))

    def start_skeleton(self, transformer: nn.Module) -> Tensors | None:
        """The same tensors without values, for a bare base on the meta device; computes nothing, and raises the same."""
        return self._start_from(SkeletonSources(self.config, self.family, self.experts, transformer))

    def _start_from(self, sources: ConfiguredSources) -> Tensors | None:
        return self.config.student.start_tensors(sources, self._default_targets)


def _elsewhere(config: Mapping[str, Any], rows: Mapping[str, int]) -> RunParts:
    return RunParts(RunConfig.model_validate(config), rows)
