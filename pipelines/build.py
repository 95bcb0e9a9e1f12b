"""From the run configuration to the parts of a run; services and actors get these functions, not the configuration."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.schedule import Schedule
from fields.carriers import Condition, Tensors
from fields.dataset import Bucket
from fields.distiller import Distiller, Optimization
from fields.evaluation import Evaluation
from fields.families import FAMILIES
from fields.families.base import Family
from fields.field import Field
from fields.lora import LoraShape, combine, read_adapter
from fields.metrics import ClipScore
from fields.objective import Objective, PredictionDifference, TransitionKl, VelocityMse
from fields.operators import Expression, Network
from fields.plan import SamplePlan, Stream, generator, noise
from fields.policy import Policy
from fields.query import BetaQuery, DenseQuery, FixedQuery, QueryDistribution, StratifiedQuery, UniformQuery
from fields.regmean import Sample, regression_merge
from fields.route_grids import RouteGrids
from fields.routing import GroupedRouting, HardRouting, Routing
from fields.scene.exam import Exam
from fields.schedule import Grid, Size, time_grid
from fields.solver import Euler, EulerMaruyama, Heun, Solver
from fields.teaching import Shares, Teaching
from pipelines import config as c
from pipelines import method_config as m
from pipelines.operator_config import SELF, expression


def family(config: c.RunConfig, num_gpus: float = 0) -> Family:
    """The model family; where its encoders run, they get this many GPUs."""
    return family_of(config.model, num_gpus)


def family_of(model: c.Model, num_gpus: float = 0) -> Family:
    """Likewise, of the model's section alone."""
    size = None if model.width is None or model.height is None else (model.width, model.height)
    return FAMILIES[model.family](model.path, getattr(torch, model.dtype), size, device(num_gpus))


def device(num_gpus: float) -> torch.device:
    """Where a process computes that was given this many GPUs."""
    return torch.device("cuda" if num_gpus else "cpu")


def grid(config: c.RunConfig) -> Grid:
    """The rollout's times by size: the model's own, or of one shift."""
    return _grid(family(config), config.rollout.steps, config.rollout.shift)


def _grid(kind: Family, steps: int, shift: float | None) -> Grid:
    return cache(lambda size: kind.grid(size, steps) if shift is None else time_grid(steps, shift))


def exam_grid(config: c.RunConfig) -> Tensor:
    """The times at which students and experts answer the exam."""
    shift = config.eval.shift or config.rollout.shift
    return _grid(family(config), config.eval.steps or config.rollout.steps, shift)(None)


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
    """(route, row) -> the size that the row asks for."""
    kind = family(config)
    bucket = cache(lambda route: Bucket(config.routes[route].data))
    return lambda route, row: kind.size(bucket(route)[row])


def _routing(config: c.RunConfig) -> Routing:
    weights = {name: route.weight for name, route in config.routes.items()}
    if isinstance(config.routing, m.GroupedRouting):
        return GroupedRouting(weights)
    return HardRouting(weights, config.routing.granularity)


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
        return EulerMaruyama(config.state.eta, float(grid(config)(None)[1]))
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
        case m.TransitionKl(form=form, eta=eta):
            return TransitionKl(eta if form == "sde" else None, float(grid(config)(None)[1]))


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
    metrics = {name: ClipScore(metric.weights) for name, metric in settings.metrics.items()}
    shape = family(config).latent_shape()
    return RouteGrids(buckets(config), settings.samples, settings.seed, shape, config.rollout.group_size, metrics)


def student_shape(config: c.RunConfig) -> LoraShape:
    """The student's adapter."""
    targets = config.student.targets or FAMILIES[config.model.family].default_lora_targets
    return LoraShape(config.student.rank, config.student.alpha, targets)


def policy(config: c.RunConfig) -> Policy:
    """The student as it rolls out."""
    kind = family(config)
    return Policy(
        kind,
        kind.load_transformer(config.model.path),
        student_shape(config).scale,
        config.run.seed,
        grid(config),
        solver(config),
        objective(config).both_branches,
        device(config.rollout.num_gpus),
    )


def field(config: c.RunConfig, name: str) -> Field:
    """One expert: its expression, and every network that the expression names."""
    kind = family(config)
    networks = {}

    def field_of(expert: str) -> Expression:
        return expression(config.experts[expert].operator, lambda leaf: network(expert) if leaf == SELF else field_of(leaf))

    def network(expert: str) -> Network:
        if expert not in networks:
            adapter = config.experts[expert].adapter
            networks[expert] = (kind.load_transformer(config.model.path), read_adapter(adapter) if adapter else None)
        return Network(expert)

    whole = field_of(name)
    return Field.build(name, kind, networks, whole, device(config.experts[name].num_gpus))


def distiller(config: c.RunConfig) -> Distiller:
    """The student as it learns, at its start."""
    kind = family(config)
    learner = config.learner
    return Distiller(
        kind,
        kind.load_transformer(config.model.path),
        student_shape(config),
        Optimization(
            learning_rate=learner.learning_rate,
            betas=learner.betas,
            warmup_steps=learner.warmup_steps,
            decay=learner.decay,
            clip=learner.clip,
            ema_decay=learner.ema_decay,
        ),
        seed=int(generator(config.run.seed, Stream.INITIALISATION, 0).integers(2**63)),
        start=start_tensors(config),
        objective=objective(config),
        anchor_weight=config.anchor.weight if config.anchor else 0.0,
        device=device(learner.num_gpus),
    )


def start_tensors(config: c.RunConfig) -> Tensors | None:
    """The adapter that the student starts as; None is the base."""
    start = config.student.start
    if isinstance(start, c.StartAtMerge):
        return combine(
            {name: (read_adapter(_adapter(config, name)), weight) for name, weight in start.experts.items()},
            student_shape(config),
        )
    if isinstance(start, c.StartAtRegression):
        return _regression(config, start.rows)
    if isinstance(start, c.StartAtExpert):
        return read_adapter(_adapter(config, start.expert)).tensors
    return None


def _regression(config: c.RunConfig, count: int) -> Tensors:
    """The merge of the routes' experts, each run on the first rows of its route."""
    kind = family(config)
    samples = {}
    for number, (name, route) in enumerate(config.routes.items()):
        bucket = Bucket(route.data)
        rows = range(min(count, len(bucket)))
        adapter = config.experts[route.expert].adapter
        network = (kind.load_transformer(config.model.path), read_adapter(adapter) if adapter else None)
        transformer = Field.build(route.expert, kind, {route.expert: network}).transformers[route.expert]
        samples[name] = Sample(
            transformer=transformer,
            adapter=network[1],
            condition=Condition.concatenate([kind.encode([bucket[row]]) for row in rows]),
            noise=noise(config.run.seed, [number * count + row for row in rows], kind.latent_shape(), Stream.MERGE),
        )
    return regression_merge(kind, samples, grid(config)(None), student_shape(config))


def _adapter(config: c.RunConfig, name: str) -> Path:
    adapter = config.experts[name].adapter
    if adapter is None:
        raise ValueError(f"student.start: expert {name!r} has no adapter to start from; start at the base instead")
    return adapter


def recipe(config: c.RunConfig) -> dict[str, Any]:
    """The settings that decide the student, as plain values: a run continues only with the same ones.

    Left out is what may change on the way: the run's name, folder and length, and everything about resources.
    """
    everything = config.model_dump(mode="json")
    resources = {"replicas", "workers", "num_cpus", "num_gpus", "node_labels", "cache_rows"}

    def essential(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: essential(item) for key, item in value.items() if key not in resources}
        return value

    recipe = {
        key: essential(value) for key, value in everything.items() if key not in ("checkpoint", "eval", "encoder", "preset")
    }
    recipe["run"] = {key: recipe["run"][key] for key in ("seed", "threads")}
    return recipe


def recipe_differences(now: dict[str, Any], saved: dict[str, Any], key: str = "") -> list[str]:
    """Where two recipes differ, as `dotted.key: saved -> now`."""
    if not (isinstance(now, dict) and isinstance(saved, dict)):
        return [] if now == saved else [f"{key}: {saved} -> {now}"]
    differences = []
    for name in sorted(now.keys() | saved.keys()):
        differences += recipe_differences(now.get(name), saved.get(name), f"{key}.{name}".lstrip("."))  # type: ignore[arg-type]
    return differences
