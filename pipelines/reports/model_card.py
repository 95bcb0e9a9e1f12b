"""The card of a student that leaves its run's folder: what it is, what it was made from, what it can do."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from actors.journal import METRICS, rows
from pipelines.config.recipe import recipe
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig
from pipelines.config.services import ExpertConfig
from pipelines.config.student import LoraStudentConfig
from pipelines.reports.page import template
from pipelines.run_folder.summary import CategorySkills, Summary

_TASK = "text-to-image"


def model_card(config: RunConfig, run: Path, summary: Summary, place: str, licence: str | None) -> str:
    """README.md, with the front matter that the hub reads.

    Args:
        config: of the finished run, with the experts that came while it learned.
        run: its folder, wherever that is now.
        summary: of it.
        place: where the student will be found: a folder, or a name on the hub.
        licence: an identifier, such as `apache-2.0`; None leaves it open.
    """
    student, base = config.student, config.model.model_dump()["path"]
    skills = summary.skills
    measure = _measure(skills)
    front = {
        "base_model": base,
        "library_name": "diffusers",
        "pipeline_tag": _TASK,
        "tags": ["distillation", "fieldweave", *(["lora"] if isinstance(student, LoraStudentConfig) else [])],
    }
    if licence is not None:
        front |= {"license": licence}
    return template("card.md.template").render(
        front=yaml.safe_dump(front, sort_keys=False).rstrip(),
        name=config.run.name,
        adapter=isinstance(student, LoraStudentConfig),
        rank=student.rank if isinstance(student, LoraStudentConfig) else None,
        base=base,
        family=config.model.family,
        experts=config.experts,
        summary=summary,
        checksum=summary.weights_sha256,
        place=place,
        routes=_routes(config, run),
        skills={category: _row(values, measure) for category, values in skills.items()},
        models=[BASE, *config.experts, BEFORE, AFTER],
        measure=measure,
        evaluation=config.evaluation_type,
        recipe=yaml.safe_dump(recipe(config), sort_keys=False).rstrip(),
        versions=", ".join(f"{package} {version}" for package, version in summary.versions.items()),
        licence=licence,
    )


def _measure(skills: Mapping[str, CategorySkills]) -> str:
    """What the table shows of a skill: its grade where there is one."""
    measures = next(iter(skills.values())).after if skills else {}
    return "graded" if "graded" in measures else next(iter(measures), "")


def _row(values: CategorySkills, measure: str) -> dict[str, str]:
    skills = {**values.experts, BASE: values.base, BEFORE: values.before, AFTER: values.after}
    return {model: f"{measures[measure]:.3f}" if measure in measures else "" for model, measures in skills.items()}


def _routes(config: RunConfig, run: Path) -> list[dict[str, Any]]:
    trained = Counter[str]()
    for row in rows(run / METRICS):
        trained.update(row["route_samples"])
    return [
        {
            "name": name,
            "expert": route.expert,
            "source": _source(config.experts[route.expert]),
            "samples": trained[name],
            "rows": _rows_of_data(route.data),
        }
        for name, route in config.routes.items()
    ]


def _source(expert: ExpertConfig) -> str:
    """What an expert is made of, without the folders of this machine."""
    path = expert.adapter or expert.checkpoint
    return "the base" if path is None else f"`{path.name}`"


def _rows_of_data(path: Path) -> str:
    """How many rows a data set has, where it can still be read."""
    try:
        return str(pq.read_metadata(path).num_rows)
    except OSError:
        return "unknown"
