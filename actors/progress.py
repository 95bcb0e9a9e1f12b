"""Where a run is, as the learner tells it."""

from dataclasses import dataclass, replace

from fields.update import Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is.

    Attributes:
        examined: the step of the last exam that was taken while training.
        warnings: what the user should know, in the order in which it came about.
    """

    step: int
    seconds: float = 0.0
    samples: int = 0
    staleness: int = 0
    update: Update | None = None
    examined: int | None = None
    warnings: tuple[str, ...] = ()

    def after(self, step: int, update: Update, staleness: int, samples: int, seconds: float) -> "Progress":
        """Where it is once a step is done, which trained on so many samples, at these seconds."""
        samples += self.samples
        return replace(self, step=step + 1, update=update, staleness=staleness, samples=samples, seconds=seconds)
