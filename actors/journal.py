"""The written record of a run: metrics.jsonl with a row an optimizer step, skills.jsonl, and TensorBoard events."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from fields.distiller import Update

METRICS = "metrics.jsonl"
SKILLS = "skills.jsonl"


class Journal:
    """Appends to a run folder.

    Args:
        folder: of the run.
        start: the first step that will be recorded; rows of it and later, left by an interrupted run, are dropped, so
            that every sample stands in the record exactly once.
    """

    def __init__(self, folder: Path, start: int):
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in rows(folder / METRICS) if row["step"] < start]
        _rewrite(folder / METRICS, kept)
        _rewrite(folder / SKILLS, [row for row in rows(folder / SKILLS) if row["step"] <= start])
        self._earlier_seconds = kept[-1]["seconds"] if kept else 0.0
        self._metrics = (folder / METRICS).open("a")
        self._skills = (folder / SKILLS).open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)

    def record(self, step: int, update: Update, policy_version: int, sample_ids: Sequence[int], seconds: float) -> None:
        """One optimizer step, 0-based; `seconds` since training began or resumed."""
        row = {
            "step": step,
            "loss": update.loss,
            "route_loss": update.route_loss,
            "route_samples": update.route_samples,
            "route_target_norm": update.route_target_norm,
            "gradient_norm": update.gradient_norm,
            "policy_version": policy_version,
            "staleness": step - policy_version,
            "samples": len(sample_ids),
            "seconds": round(self._earlier_seconds + seconds, 3),
            "sample_ids": list(sample_ids),
        }
        self._metrics.write(json.dumps(row) + "\n")
        self._metrics.flush()
        self._board.add_scalar("loss/all", update.loss, step)
        for route, loss in update.route_loss.items():
            self._board.add_scalar(f"loss/{route}", loss, step)
        self._board.add_scalar("gradient_norm", update.gradient_norm, step)
        self._board.add_scalar("staleness", step - policy_version, step)

    def record_skills(self, step: int, skills: Mapping[str, Mapping[str, float]], grid: np.ndarray) -> None:
        """An evaluation after `step` optimizer steps, with an image grid (3, H, W) in [0, 1]."""
        self._skills.write(json.dumps({"step": step, "skills": skills}) + "\n")
        self._skills.flush()
        for category, values in skills.items():
            for measure, value in values.items():
                self._board.add_scalar(f"{measure}/{category}", value, step)
        self._board.add_image("student", grid, step)
        self._board.flush()

    def close(self) -> None:
        """Flush everything to disk."""
        self._metrics.close()
        self._skills.close()
        self._board.close()


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; a last line that a dying process left unfinished is dropped."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _rewrite(path: Path, kept: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_suffix(".temporary")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
    temporary.rename(path)
