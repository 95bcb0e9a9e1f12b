"""From the run configuration to the parts of a run; services and actors get these functions, not the configuration."""

from typing import Any

import torch
from torch import Tensor

from actors.schedule import Schedule
from fields.dataset import Bucket
from fields.distiller import Distiller, Optimization
from fields.families import FAMILIES
from fields.families.base import Family
from fields.field import Field
from fields.lora import LoraShape
from fields.operators import Guidance, Identity, Operator
from fields.plan import SamplePlan, Stream, generator
from fields.policy import Policy
from fields.query import BetaQuery, QueryDistribution, UniformQuery
from fields.routing import HardRouting
from fields.schedule import time_grid
from fields.shared_field import Member, SharedField
from fields.student import FullStudent, LoraStudent, Student
from pipelines import config as c
from pipelines.start import expert_adapter, start_tensors


def family(config: c.RunConfig) -> Family:
    """The model family."""
    return FAMILIES[config.model.family]()


def device(num_gpus: float) -> torch.device:
    """Where a process computes that was given this many GPUs."""
    return torch.device("cuda" if num_gpus else "cpu")


def grid(config: c.RunConfig) -> Tensor:
    """The rollout's times."""
    return time_grid(config.rollout.steps, config.rollout.shift)


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
    )


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


def student(config: c.RunConfig) -> Student:
    """What is trained."""
    section = config.student
    if isinstance(section, c.FullStudent):
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
        device(config.rollout.num_gpus),
    )


def field(config: c.RunConfig, name: str) -> Field:
    """One expert."""
    kind = family(config)
    expert = config.experts[name]
    transformer = kind.load_transformer(expert.checkpoint or config.model.path)
    adapter = expert_adapter(config, name, transformer)
    return Field.build(name, kind, transformer, adapter, _operator(expert.operator), device(expert.num_gpus))


def shared_field(config: c.RunConfig) -> SharedField:
    """The experts that share one copy of the base."""
    kind = family(config)
    shared = config.shared_experts
    transformer = kind.load_transformer(config.model.path)
    members = {name: Member(expert_adapter(config, name, transformer), _operator(e.operator)) for name, e in shared.items()}
    return SharedField(kind, transformer, members, device(next(iter(shared.values())).num_gpus))


def _operator(operator: c.IdentityOperator | c.GuidanceOperator) -> Operator:
    return Guidance(operator.scale) if isinstance(operator, c.GuidanceOperator) else Identity()


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
            clip=learner.clip,
            ema_decay=learner.ema_decay,
        ),
        seed=int(generator(config.run.seed, Stream.INITIALISATION, 0).integers(2**63)),
        start=start_tensors(config, student(config), kind, transformer),
        device=device(learner.num_gpus),
    )


def recipe(config: c.RunConfig) -> dict[str, Any]:
    """The settings that decide the student, as plain values: a run continues only with the same ones.

    Left out is what may change on the way: the run's name, folder and length, and everything about resources.
    """
    everything = config.model_dump(mode="json")
    resources = {"replicas", "workers", "num_cpus", "num_gpus", "cache_bytes"}

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
