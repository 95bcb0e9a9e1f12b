"""From the run configuration to the parts of a run; services and actors get these functions, not the configuration."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from actors.schedule import Schedule
from fields.carriers import Tensors
from fields.dataset import Bucket
from fields.distiller import Distiller, Optimization
from fields.families import FAMILIES
from fields.families.base import Family
from fields.field import Field
from fields.lora import LoraShape, combine, read_adapter
from fields.operators import Identity, Operator
from fields.plan import SamplePlan, Stream, generator
from fields.policy import Policy
from fields.query import BetaQuery, QueryDistribution, UniformQuery
from fields.routing import HardRouting
from fields.schedule import Grid, Size, time_grid
from pipelines import config as c


def family(config: c.RunConfig, num_gpus: float = 0) -> Family:
    """The model family; where its encoders run, they get this many GPUs."""
    model = config.model
    size = None if model.width is None or model.height is None else (model.width, model.height)
    return FAMILIES[model.family](model.path, getattr(torch, model.dtype), size, device(num_gpus))


def device(num_gpus: float) -> torch.device:
    """Where a process computes that was given this many GPUs."""
    return torch.device("cuda" if num_gpus else "cpu")


def grid(config: c.RunConfig) -> Grid:
    """The rollout's times by size: the model's own, or of one shift."""
    steps, shift = config.rollout.steps, config.rollout.shift
    kind = family(config)
    return cache(lambda size: kind.grid(size, steps) if shift is None else time_grid(steps, shift))


def plan(config: c.RunConfig, rows: dict[str, int]) -> SamplePlan:
    """The sample plan; `rows` is route -> rows of its bucket."""
    return SamplePlan(
        seed=config.run.seed,
        batch_size=config.learner.batch_size,
        group_size=config.rollout.group_size,
        routing=HardRouting({name: route.weight for name, route in config.routes.items()}, config.routing.granularity),
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


def _query(query: c.BetaQuery | c.UniformQuery) -> QueryDistribution:
    if isinstance(query, c.UniformQuery):
        return UniformQuery(query.coordinate)
    return BetaQuery(query.a, query.b, query.coordinate)


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
        device(config.rollout.num_gpus),
    )


def field(config: c.RunConfig, name: str) -> Field:
    """One expert."""
    kind = family(config)
    expert = config.experts[name]
    adapter = read_adapter(expert.adapter) if expert.adapter else None
    transformer = kind.load_transformer(config.model.path)
    return Field.build(name, kind, transformer, adapter, operator(kind, expert.operator), device(expert.num_gpus))


def operator(kind: Family, operator: c.IdentityOperator | c.GuidanceOperator) -> Operator:
    """What an expert makes of its network; guidance is the family's own."""
    return kind.guidance(operator.scale) if isinstance(operator, c.GuidanceOperator) else Identity()


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
            clip=learner.clip,
            ema_decay=learner.ema_decay,
        ),
        seed=int(generator(config.run.seed, Stream.INITIALISATION, 0).integers(2**63)),
        start=start_tensors(config),
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
    if isinstance(start, c.StartAtExpert):
        return read_adapter(_adapter(config, start.expert)).tensors
    return None


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
    resources = {"replicas", "workers", "num_cpus", "num_gpus", "cache_rows"}

    def essential(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: essential(item) for key, item in value.items() if key not in resources}
        return value

    recipe = {key: essential(value) for key, value in everything.items() if key not in ("checkpoint", "eval", "encoder")}
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
