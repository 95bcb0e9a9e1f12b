"""Running a configuration to its end, quietly."""

import io
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from rich.console import Console

from actors.journal import METRICS, rows
from fields import checkpoint
from fields.carriers import Weights
from pipelines.cluster.demands import RunDemands
from pipelines.cluster.reserve import reserve
from pipelines.config.run import RunConfig
from pipelines.parts.check_files import checked_parts
from pipelines.run.distributed import run_distributed
from pipelines.run.learner_process import end, start_learner
from pipelines.run.origin import Origin
from pipelines.run.reference import run_reference
from pipelines.run_folder.outcome import Outcome, write_config
from pipelines.watch.progress import Display


def reference(config: RunConfig, resume: Path | None = None) -> Outcome:
    return run_reference(checked_parts(config), _origin(resume), _quiet(config))


def distributed(config: RunConfig, resume: Path | None = None, shown: io.StringIO | None = None) -> Outcome | None:
    """None if the run was stopped. What the user sees is written to `shown`."""
    write_config(config)
    reservation = reserve(RunDemands.of(config), 0, print)
    return run_distributed(checked_parts(config), _origin(resume), _quiet(config, shown), reservation)


def trained(config: RunConfig, resume: Path | None = None) -> Weights:
    """The student of learner and workers alone, on services that are deployed already."""
    learner = start_learner(checked_parts(config), _origin(resume))
    try:
        ray.get(learner.train.remote())
        weights, _ = ray.get(learner.student.remote())
        return weights
    finally:
        end(learner)


def counted_svds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets a number for each matrix with values that this process decomposes: what merging adapters takes."""
    svd, counted = torch.linalg.svd, list[int]()

    def counting(matrix: torch.Tensor, **options: Any) -> Any:
        if matrix.device.type != "meta":
            counted.append(len(matrix))
        return svd(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", counting)
    return counted


def trained_ids(folder: Path) -> list[int]:
    """Every sample id in metrics.jsonl, in training order."""
    return [sample_id for row in rows(folder / METRICS) for sample_id in row["sample_ids"]]


def _origin(resume: Path | None) -> Origin:
    return Origin() if resume is None else Origin(step=checkpoint.read(resume).step, checkpoint=resume)


def _quiet(config: RunConfig, shown: io.StringIO | None = None) -> Display:
    return Display(Console(file=shown or io.StringIO(), width=1000), 0, config.run.steps)
