"""Where a run is, as the learner tells it."""

from dataclasses import dataclass

from fields.update import Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is; `examined` is the step of the last exam that was taken while training."""

    step: int
    seconds: float
    samples: int
    wait_seconds: float
    staleness: int
    update: Update | None
    examined: int | None = None
