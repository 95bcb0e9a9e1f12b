"""What a run leaves behind, however it was run: the contract of the run folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import yaml

from actors.journal import METRICS, rows
from fields.atomic import write_text
from fields.carriers import Weights
from fields.evaluation.base import Evaluation, ExamResult
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig

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
        "versions": package_versions(),
    }


def write_summary(config: RunConfig, outcome: Outcome) -> dict[str, Any]:
    """summary.json of a finished run, and its content."""
    summary = summarize(config, outcome)
    write_text(config.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary
