"""The written record of a run: metrics.jsonl with a row per optimizer step, skills.jsonl, changes.jsonl, and what the
loggers keep."""

import io
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from actors.loggers import LOGGERS, Logger
from actors.step_times import StepTimes
from fields.atomic import flush, write_text
from fields.update import Update

_messages = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
SKILLS = "skills.jsonl"
CHANGES = "changes.jsonl"


class Journal:
    """Appends to a run folder.

    Args:
        folder: of the run.
        start: the first step that will be recorded; rows of it and later, left by an interrupted run, are dropped, so
            that every sample stands in the record exactly once.
        loggers: names of `LOGGERS` that get the same numbers, and the pictures.
    """

    def __init__(self, folder: Path, start: int, loggers: Sequence[str]):
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in rows(folder / METRICS) if row["step"] < start]
        exams = [row for row in rows(folder / SKILLS) if row["step"] <= start]
        _rewrite(folder / METRICS, kept)
        _rewrite(folder / SKILLS, exams)
        if (folder / CHANGES).exists():  # a line that was cut would swallow the next change
            _rewrite(folder / CHANGES, rows(folder / CHANGES))
        self._folder = folder
        self._examined = {row["step"] for row in exams}
        self._earlier_seconds = kept[-1]["seconds"] if kept else 0.0
        self._loggers: dict[str, Logger | None] = {name: LOGGERS[name](folder, start) for name in loggers}

    def record(
        self,
        step: int,
        update: Update,
        policy_version: int,
        sample_ids: Sequence[int],
        seconds: float,
        times: StepTimes | None = None,
    ) -> None:
        """One optimizer step, 0-based; `seconds` since training began or resumed, exams left out, and what they went to, where
        that can be told."""
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
            **{f"{part}_seconds": round(value, 3) for part, value in asdict(times or StepTimes()).items()},
            "sample_ids": list(sample_ids),
        }
        _append(self._folder / METRICS, row)
        scalars = {"loss/all": update.loss, **{f"loss/{route}": loss for route, loss in update.route_loss.items()}}
        scalars |= {"gradient_norm": update.gradient_norm, "staleness": step - policy_version}
        self._log(step, lambda logger: logger.scalars(scalars, step))

    def record_skills(
        self, step: int, skills: Mapping[str, Mapping[str, float]], grid: np.ndarray, mismatch: float | None = None
    ) -> None:
        """An evaluation after `step` optimizer steps, with an image grid (3, H, W) in [0, 1], and how far the student that
        rolls out is from the one that learns (`fields/evaluation/mismatch.py`), where it was measured."""
        measured = {} if mismatch is None else {"rollout_mismatch": mismatch}
        _append(self._folder / SKILLS, {"step": step, "skills": skills, **measured})
        scalars = {f"{measure}/{category}": value for category, values in skills.items() for measure, value in values.items()}
        scalars |= measured
        self._log(step, lambda logger: logger.scalars(scalars, step))
        self._log(step, lambda logger: logger.picture("student", grid, step))

    def _log(self, step: int, tell: Callable[[Logger], None]) -> None:
        """Tell the loggers. One that cannot write misses this, and is opened anew for what comes next: the rows have it all."""
        for name, logger in self._loggers.items():
            try:
                self._loggers[name] = logger = logger or LOGGERS[name](self._folder, step)
                tell(logger)
            except OSError as error:
                _messages.warning("%s misses step %d: %s", name, step, error)
                self._loggers[name] = None

    def has_skills(self, step: int) -> bool:
        """Whether an evaluation after `step` optimizer steps stands in the record of an earlier session."""
        return step in self._examined

    def record_change(self, step: int, settings: Mapping[str, Any]) -> None:
        """That settings change from an optimizer step on; on disk when this returns."""
        row = {"step": step, "set": settings, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        _append(self._folder / CHANGES, row)
        flush(self._folder / CHANGES)

    def close(self) -> None:
        """Let the loggers write what they hold back."""
        for logger in filter(None, self._loggers.values()):
            logger.close()


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; what a dying process or machine left unfinished at its end is dropped.

    Raises:
        ValueError: if a line before its end is no row; names file and line.
    """
    if not path.exists():
        return []
    return parsed_rows(path.read_bytes().rstrip(b"\0").split(b"\n")[:-1], path)


def parsed_rows(lines: Sequence[bytes], path: Path) -> list[dict[str, Any]]:
    """Rows of JSON, each a mapping; raises ValueError as `rows` does."""
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: line {number} is no row: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}: line {number} is no row, but {type(row).__name__}")
        parsed.append(row)
    return parsed


def _append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line, whole or not at all: of one that found no room to its end nothing stays, or what stays is cut off before the
    next."""
    line = (json.dumps(row) + "\n").encode()
    with path.open("a+b", buffering=0) as file:
        before = _end_of_lines(file)
        try:
            while line:
                line = line[file.write(line) :]
        except OSError:
            file.truncate(before)
            raise


def _end_of_lines(file: io.FileIO) -> int:
    """Cuts off what no line break ends; the length that is left."""
    end = file.seek(0, os.SEEK_END)
    while end and (file.seek(end - 1), file.read(1))[1] != b"\n":
        end -= 1
    file.truncate(end)
    return file.seek(end)


def _rewrite(path: Path, kept: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
