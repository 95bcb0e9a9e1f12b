"""Where a run is, from the files of its folder alone: for a run that goes on, has ended, or died."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.journal import METRICS, parsed_rows
from pipelines.config.errors import input_refused
from pipelines.config.run import RunConfig
from pipelines.run_folder.changes import recorded_config
from pipelines.run_folder.find import newest_state, newest_step
from pipelines.run_folder.summary import read_summary

RECENT = 50  # steps that rates and losses are averaged over
_TAIL_BYTES = 1 << 20  # of metrics.jsonl: a long run's file is not read whole every two seconds

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run as its folder shows it.

    Attributes:
        step: optimizer steps done.
        route_loss: route -> mean loss over the recent steps that had the route.
        samples_per_second: over the recent steps; None before there are two.
        seconds_per_step: likewise.
        waiting: share of its recent steps' time in which the learner waited for targets; None before there are two.
        staleness: of the last step.
        clipped: share of the recent steps whose gradient was clipped, in [0, 1].
        checkpoint: the newest checkpoint's step; None before the first.
        checkpoint_age_s: since it was written.
        quiet_s: since the last step was recorded; None before the first.
        finished: whether the summary of all steps is written.
    """

    config: RunConfig
    step: int
    route_loss: Mapping[str, float]
    samples_per_second: float | None
    seconds_per_step: float | None
    waiting: float | None
    staleness: int
    clipped: float
    checkpoint: int | None
    checkpoint_age_s: float
    quiet_s: float | None
    finished: bool

    @property
    def eta_s(self) -> float | None:
        """Seconds of training that are left at the recent pace."""
        return None if self.seconds_per_step is None else (self.config.run.steps - self.step) * self.seconds_per_step


def read_run(folder: Path, now: float) -> RunState:
    """The state of a run folder at the time `now`, in seconds since 1970.

    Raises:
        ConfigError: if the folder's configuration is missing or damaged.
    """
    config = recorded_config(folder)
    with input_refused():
        rows = _recent_rows(folder / METRICS)
    pace = _pace(rows)
    saved = newest_state(folder)
    summary = read_summary(folder)
    return RunState(
        config=config,
        step=rows[-1]["step"] + 1 if rows else 0,
        route_loss=_route_loss(rows),
        samples_per_second=pace and sum(row["samples"] for row in rows[1:]) / pace,
        seconds_per_step=pace and pace / (len(rows) - 1),
        waiting=pace and sum(row.get("wait_seconds", 0.0) for row in rows[1:]) / pace,
        staleness=rows[-1]["staleness"] if rows else 0,
        clipped=sum(row["gradient_norm"] > config.learner.clip for row in rows) / max(1, len(rows)),
        checkpoint=newest_step(folder),
        checkpoint_age_s=_since(saved, now) if saved else 0.0,
        quiet_s=_since(folder / METRICS, now) if rows else None,
        finished=summary is not None and summary.steps >= config.run.steps,
    )


def _since(path: Path, now: float) -> float:
    """Seconds since the file was written; 0 where a clock that was set back says that it was written after `now`."""
    return max(0.0, now - path.stat().st_mtime)


def _recent_rows(path: Path) -> Rows:
    """The last rows; a last line that is just being written is left out."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        start = max(0, path.stat().st_size - _TAIL_BYTES)
        file.seek(start)
        lines = file.read().split(b"\n")
    whole = lines[1:-1] if start else lines[:-1]
    return parsed_rows(whole[-RECENT:], path)


def _pace(rows: Rows) -> float | None:
    """Seconds of training between the first and the last of the rows."""
    return rows[-1]["seconds"] - rows[0]["seconds"] if len(rows) > 1 else None


def _route_loss(rows: Rows) -> dict[str, float]:
    losses: dict[str, list[float]] = {}
    for row in rows:
        for route, loss in row["route_loss"].items():
            losses.setdefault(route, []).append(loss)
    return {route: sum(values) / len(values) for route, values in sorted(losses.items())}
