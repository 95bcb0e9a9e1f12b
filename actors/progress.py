"""Where a run is, as the learner tells it."""

from dataclasses import dataclass

from fields.update import Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is.

    Attributes:
        examined: the step of the last exam that was taken while training.
        warnings: what the user should know, in the order in which it came about.
    """

    step: int
    seconds: float
    samples: int
    staleness: int
    update: Update | None
    examined: int | None = None
    warnings: tuple[str, ...] = ()
