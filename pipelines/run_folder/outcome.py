"""What a run leaves behind, however it was run: the contract of the run folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import yaml

from actors.journal import METRICS, SKILLS, rows
from fields.atomic import write_text
from fields.carriers import Weights
from fields.evaluation.base import Evaluation, ExamResult
from fields.scene.exam import Exam, route_skill
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig
from pipelines.run_folder.summary import SUMMARY
from pipelines.run_folder.time_to_skill import exams_taken, first_holding

_PACKAGES = ("ray", "torch", "peft", "numpy", "pyarrow", "safetensors", "pydantic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished run.

    Attributes:
        steps: optimizer steps of the student, earlier sessions included.
        weights: the final trainable tensors.
        exam: what every model was asked.
        results: model (base, each expert, before, after) -> its exam; empty without evaluation.
    """

    steps: int
    weights: Weights
    exam: Evaluation
    results: Mapping[str, ExamResult]


def package_versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    return {name: version(name) for name in _PACKAGES}


def write_config(config: RunConfig) -> None:
    """The resolved configuration."""
    content = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_text(config.folder / "config.yaml", content)


def summarize(config: RunConfig, outcome: Outcome) -> dict[str, Any]:
    """The content of summary.json, of a run that is finished or as far as it is."""
    results = outcome.results
    skills = {
        category: {
            BASE: results[BASE].skills[category],
            "experts": {name: results[name].skills[category] for name in config.experts},
            BEFORE: results[BEFORE].skills[category],
            AFTER: results[AFTER].skills[category],
        }
        for category in (results[BASE].skills if results else ())
    }
    journal = rows(config.folder / METRICS)
    held = first_holding(exams_taken(journal, rows(config.folder / SKILLS)), expert_levels(config, outcome))
    samples = sum(row["samples"] for row in journal)
    seconds = journal[-1]["seconds"] if journal else 0.0
    return {
        "run": config.run.name,
        "steps": outcome.steps,
        "samples": samples,
        "seconds": round(seconds, 1),
        "samples_per_second": round(samples / seconds, 2) if seconds else 0.0,
        "weights_sha256": outcome.weights.checksum,
        "skills": skills,
        "time_to_skill": held and held.price,
        "versions": package_versions(),
    }


def expert_levels(config: RunConfig, outcome: Outcome) -> dict[str, float]:
    """Route -> the graded skill of its expert, for routes that are trained and that the exam asks about; empty without one."""
    if not isinstance(outcome.exam, Exam) or not outcome.results:
        return {}
    routes = {name: route.expert for name, route in config.routes.items() if route.weight and name in outcome.exam.routes}
    return {name: route_skill(outcome.results[expert].skills, name) for name, expert in routes.items()}


def write_summary(config: RunConfig, outcome: Outcome) -> dict[str, Any]:
    """summary.json of a finished run, and its content."""
    summary = summarize(config, outcome)
    write_text(config.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary
