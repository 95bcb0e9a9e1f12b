"""From a comparison to its runs: what is one run, and how a result is found again."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.config.comparison import Comparison, Variant
from pipelines.config.errors import ConfigError
from pipelines.config.load import load
from pipelines.config.location import fetched
from pipelines.config.recipe import recipe
from pipelines.config.run import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: a variant at a seed. Variants of several experiments that mean the same are one job."""

    key: str
    config: RunConfig
    guidance: tuple[float, ...]


def plan_jobs(comparison: Comparison, seeds: int | None = None, only: str | None = None) -> list[Job]:
    """All jobs, the first seed's first, so that an interrupted comparison has every row.

    Raises:
        ConfigError: if a variant makes no valid run; names it.
    """
    jobs: dict[tuple[str, int], Job] = {}
    for seed in comparison.seeds[:seeds]:
        for name, experiment in comparison.experiments.items():
            for label, variant in experiment.variants.items():
                if only in (None, f"{name}.{label}"):
                    job = _job(comparison, f"experiments.{name}.variants.{label}", variant, seed)
                    known = jobs.get((job.key, seed), job)
                    guidance = tuple(dict.fromkeys((*known.guidance, *job.guidance)))
                    jobs[job.key, seed] = Job(key=job.key, config=job.config, guidance=guidance)
    if only and not jobs:
        raise ConfigError(f"--rerun {only}: no such EXPERIMENT.VARIANT")
    return list(jobs.values())


def _job(comparison: Comparison, where: str, variant: Variant, seed: int) -> Job:
    try:
        config = configure(comparison, variant, seed)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return Job(key=job_key(config), config=config, guidance=variant.guidance)


def configure(comparison: Comparison, variant: Variant, seed: int) -> RunConfig:
    """The run's configuration of a variant at a seed."""
    changes = comparison.set | variant.set | {"run.seed": seed, "run.services": f"compare-{comparison.name}"}
    config = load(comparison.base, RunConfig, changes)
    if config.evaluation_type != "exam":
        raise ConfigError("eval.type: a comparison needs skills; the scene world's exam gives them, grids don't")
    if comparison.loop == "reference":
        _check_cpu_seconds(config)
    named = config.run.model_copy(update={"name": f"compare-{job_key(config)}-{seed}"})
    return config.model_copy(update={"run": named})


def _check_cpu_seconds(config: RunConfig) -> None:
    """Refuse what the plain loop's CPU seconds of one core don't tell."""
    if not config.eval.every:
        raise ConfigError("eval.every: 0 takes no exam; with loop: reference it is the number of steps between two")
    if config.numerics.threads != 1:
        raise ConfigError(
            f"numerics.threads: {config.numerics.threads}; loop: reference counts the seconds of one core, with 1"
        )
    experts = {f"experts.{name}": expert for name, expert in config.experts.items()}
    for key, section in {"learner": config.learner, "rollout": config.rollout, "encoder": config.encoder, **experts}.items():
        if section.num_gpus:
            raise ConfigError(f"{key}.num_gpus: {section.num_gpus:g}; loop: reference counts CPU seconds, without GPUs")


def settings(config: RunConfig, *, without_defaults: bool = False) -> dict[str, Any]:
    """All that decides a result but the weights that it reads: what is trained, for how long, and how it is examined.

    Args:
        config: of the run.
        without_defaults: leave out settings that are the defaults.
    """
    asked = config.eval.model_dump(mode="json", exclude_defaults=without_defaults)
    return recipe(config, without_defaults=without_defaults) | {"steps": config.run.steps, "eval": asked}


def job_key(config: RunConfig) -> str:
    """A short digest of all that decides a result but the seed.

    Values that are the defaults are left out, so that a key of the configuration that comes later leaves every digest as it is;
    `results_of` looks whether a default has become another.
    """
    decides = settings(config, without_defaults=True) | {"run": {}, "weights": weights_digest(config)}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def weights_digest(config: RunConfig) -> str:
    """Of the safetensors that a run reads: results of other weights are other results."""
    models = [expert.model.path for expert in config.experts.values() if expert.model is not None]
    files = [config.model.path, *models, getattr(config.student.start, "adapter", None)]
    files += [path for expert in config.experts.values() for path in (expert.checkpoint, expert.adapter)]
    return hashlib.sha256("".join(_digest(path) for path in files if path is not None).encode()).hexdigest()


@cache
def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    fetched(path)
    for file in [path] if path.is_file() else sorted(path.rglob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
