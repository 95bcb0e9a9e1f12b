"""From the run configuration to the parts of a run; services and actors get these functions, not the configuration."""

from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from actors.schedule import Schedule
from fields.carriers import Tensors
from fields.data.rows import Bucket
from fields.data.size import Size
from fields.distiller import Distiller, Optimization
from fields.evaluation.base import Evaluation
from fields.evaluation.fid import Fid
from fields.evaluation.metrics import ClipScore, Metric
from fields.evaluation.route_grids import RouteGrids
from fields.families.base import Family
from fields.field import Field
from fields.lora.adapter import Adapter, LoraShape
from fields.method.objective import Objective, PredictionDifference, TransitionKl, VelocityMse
from fields.method.plan import SamplePlan, Stream, generator
from fields.method.query import BetaQuery, DenseQuery, FixedQuery, QueryDistribution, StratifiedQuery, UniformQuery
from fields.method.routing import ChangingRouting, GroupedRouting, HardRouting, Routing
from fields.method.solver import Euler, EulerMaruyama, Heun, Solver
from fields.method.teaching import Shares, Teaching
from fields.method.time_grid import Grid
from fields.operators import Expression, Network
from fields.policy import Policy
from fields.registry import FAMILIES
from fields.scene.exam import Exam
from fields.shared_field import Member, SharedField
from fields.student import FullStudent, LoraStudent, Student
from pipelines.config import evaluation as evaluation_config
from pipelines.config import method as m
from pipelines.config import run as c
from pipelines.config import student as student_config
from pipelines.config.operators import SELF, expression
from pipelines.parts import student_start as start
from pipelines.parts.student_start import expert_adapter, expert_network


def family(config: c.RunConfig, num_gpus: float = 0) -> Family:
    """The model family; where its encoders run, they get this many GPUs."""
    return family_of(config.model, num_gpus)


def family_of(model: c.Model, num_gpus: float = 0) -> Family:
    """The model family, from the configuration's model section."""
    size = None if model.width is None or model.height is None else (model.width, model.height)
    return FAMILIES[model.family](model.path, getattr(torch, model.dtype), size, device(num_gpus))


def device(num_gpus: float) -> torch.device:
    """Where a process computes that was given this many GPUs."""
    return torch.device("cuda" if num_gpus else "cpu")


def grid(config: c.RunConfig) -> Grid:
    """The rollout's times by size: the model's own, or of one shift."""
    return family(config).times(config.rollout.steps, config.rollout.shift)


def exam_grid(config: c.RunConfig) -> Grid:
    """The times at which students and experts answer the exam, by size."""
    return family(config).times(config.eval.steps or config.rollout.steps, config.eval.shift or config.rollout.shift)


def plan(config: c.RunConfig, rows: dict[str, int]) -> SamplePlan:
    """The sample plan; `rows` is route -> rows of its bucket."""
    return SamplePlan(
        seed=config.run.seed,
        batch_size=config.learner.batch_size,
        group_size=config.rollout.group_size,
        routing=_routing(config),
        query=_query(config.query),
        grid=grid(config),
        rows=rows,
        size=_sizes(config),
    )


def _sizes(config: c.RunConfig) -> Callable[[str, int], Size | None]:
    """(route, row) -> the size that the row asks for, or the family's."""
    default = family(config).default_size
    bucket = cache(lambda route: Bucket(config.routes[route].data))
    return lambda route, row: bucket(route).size(row) or default


def _routing(config: c.RunConfig) -> Routing:
    def constant(weights: dict[str, float]) -> HardRouting | GroupedRouting:
        if isinstance(config.routing, m.GroupedRouting):
            return GroupedRouting(weights)
        return HardRouting(weights, config.routing.granularity)

    stages = {step: constant(weights) for step, weights in config.route_weights.items()}
    return stages[0] if len(stages) == 1 else ChangingRouting(stages)


def _query(query: m.Query) -> QueryDistribution:
    match query:
        case m.BetaQuery():
            return BetaQuery(query.a, query.b, query.coordinate, query.k)
        case m.UniformQuery():
            return UniformQuery(query.coordinate, query.k)
        case m.StratifiedQuery():
            return StratifiedQuery(query.coordinate, query.k)
        case m.FixedQuery():
            return FixedQuery(query.at, query.coordinate)
        case m.DenseQuery():
            return DenseQuery()


def solver(config: c.RunConfig) -> Solver | None:
    """Of the rollouts that training asks at; None noises data instead. Evaluation uses Euler."""
    if isinstance(config.state, m.NoisedData):
        return None
    if isinstance(config.state, m.StudentSde):
        return EulerMaruyama(config.state.eta)
    return Heun() if config.rollout.solver == "heun" else Euler()


def objective(config: c.RunConfig) -> Objective:
    """What is minimised."""
    match config.objective:
        case m.Mse():
            return VelocityMse()
        case m.WeightedMse(power=power):
            return VelocityMse(power)
        case m.Pdm(weight=weight):
            return PredictionDifference(weight)
        case m.TransitionKl(form=form):
            return TransitionKl(config.state.eta if form == "sde" and isinstance(config.state, m.StudentSde) else None)


def teaching(config: c.RunConfig) -> Teaching:
    """Who answers a route."""
    shares: dict[str, Shares] = {name: {route.expert: 1.0} for name, route in config.routes.items()}
    if isinstance(config.routing, m.SoftRouting):
        experts = list(dict.fromkeys(route.expert for route in config.routes.values()))
        alike = {name: {expert: 1 / len(experts) for expert in experts} for name in config.routes}
        mix = config.routing.mix or alike
        shares = {name: {expert: share for expert, share in mix[name].items() if share > 0} for name in config.routes}
    if isinstance(config.state, m.NoisedData) and config.state.target == "data":
        shares = {name: {} for name in config.routes}
    return Teaching(shares=shares, anchor=config.anchor.expert if config.anchor else None)


def with_clean(config: c.RunConfig) -> bool:
    """Whether training reads the rows' target images."""
    return isinstance(config.state, m.NoisedData)


def schedule(config: c.RunConfig, start: int) -> Schedule:
    """When the run does what, from step `start` on."""
    return Schedule(
        start=start,
        steps=config.run.steps,
        lag=config.learner.lag,
        checkpoint_every=config.checkpoint.every,
        keep_checkpoints=config.checkpoint.keep,
        evaluate_every=config.eval.every,
    )


def buckets(config: c.RunConfig) -> dict[str, Bucket]:
    """Route -> its rows."""
    return {name: Bucket(route.data) for name, route in config.routes.items()}


def evaluation(config: c.RunConfig) -> Evaluation:
    """What base, experts and student are asked: the exam of the scene family, image grids of any other."""
    settings = config.eval
    if (settings.type or ("exam" if config.model.family == "scene" else "grids")) == "exam":
        return Exam(settings.samples, settings.seed)
    metrics = {name: _metric(metric) for name, metric in settings.metrics.items()}
    return RouteGrids(buckets(config), settings.samples, settings.seed, family(config), config.rollout.group_size, metrics)


def _metric(settings: evaluation_config.Metric) -> Metric:
    if isinstance(settings, evaluation_config.FidMetric):
        return Fid(settings.weights, settings.real)
    return ClipScore(settings.weights)


def student(config: c.RunConfig) -> Student:
    """What is trained."""
    section = config.student
    if isinstance(section, student_config.FullStudent):
        return FullStudent()
    targets = section.targets or FAMILIES[config.model.family].default_lora_targets
    return LoraStudent(LoraShape(section.rank, section.alpha, targets))


def policy(config: c.RunConfig) -> Policy:
    """The student as it rolls out."""
    kind = family(config)
    return Policy(
        kind,
        kind.load_transformer(config.model.path),
        student(config),
        config.run.seed,
        grid(config),
        solver(config),
        objective(config).both_branches,
        device(config.rollout.num_gpus),
    )


def field(config: c.RunConfig, name: str) -> Field:
    """One expert: its expression, and every network that the expression names."""
    kind = family(config)
    networks: dict[str, tuple[nn.Module, Adapter | None]] = {}

    def network(expert: str) -> Network:
        if expert not in networks:
            networks[expert] = expert_network(config, expert, kind)
        return Network(expert)

    whole = expert_expression(config, name, kind, network)
    return Field.build(name, kind, networks, whole, device(config.experts[name].num_gpus))


def shared_field(config: c.RunConfig) -> SharedField:
    """The experts that share one copy of the base."""
    kind = family(config)
    transformer = kind.load_transformer(config.model.path)
    members = {name: _member(config, name, kind) for name in config.shared_experts}
    named = dict.fromkeys(network for member in members.values() for network in member.networks)
    adapters = {name: expert_adapter(config, name, transformer) for name in named}
    return SharedField(kind, transformer, adapters, members, device(next(iter(config.shared_experts.values())).num_gpus))


def _member(config: c.RunConfig, name: str, kind: Family) -> Member:
    """An expert whose expression has numbers for its networks: equal expressions of different networks are then equal."""
    networks: list[str] = []

    def number(expert: str) -> Network:
        if expert not in networks:
            networks.append(expert)
        return Network(str(networks.index(expert)))

    return Member(expert_expression(config, name, kind, number), tuple(networks))


def expert_expression(config: c.RunConfig, name: str, kind: Family, network: Callable[[str], Network] = Network) -> Expression:
    """What an expert computes; `network` says what stands for an expert's own network.

    Raises:
        ValueError: if the family cannot be guided as the operator says.
    """

    def leaf(written: str) -> Expression:
        return network(name) if written == SELF else expert_expression(config, written, kind, network)

    return expression(config.experts[name].operator, leaf, kind)


def distiller(config: c.RunConfig) -> Distiller:
    """The student as it learns, at its start."""
    kind = family(config)
    learner = config.learner
    transformer = kind.load_transformer(config.model.path)
    return Distiller(
        kind,
        transformer,
        student(config),
        Optimization(
            learning_rate=learner.learning_rate,
            betas=learner.betas,
            warmup_steps=learner.warmup_steps,
            decay=learner.decay,
            clip=learner.clip,
            ema_decay=learner.ema_decay,
        ),
        seed=int(generator(config.run.seed, Stream.INITIALISATION, 0).integers(2**63)),
        start=start.start_tensors(config, student(config), kind, transformer),
        objective=objective(config),
        anchor_weight=config.anchor.weight if config.anchor else 0.0,
        device=device(learner.num_gpus),
    )


def start_tensors(config: c.RunConfig) -> Tensors | None:
    """The student's tensors at its start, for a process that doesn't train it; None is the base."""
    if isinstance(config.student.start, student_config.StartAtBase):
        return None
    kind, trained = family(config), student(config)
    load = kind.load_transformer if isinstance(trained, FullStudent) else kind.skeleton
    return start.start_tensors(config, trained, kind, load(config.model.path))
