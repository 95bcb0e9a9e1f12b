"""What the learner's time goes to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds of one optimizer step, and of what came between it and the step before.

    Attributes:
        wait: for the step's targets.
        update: of the student, in its ranks.
        save: of the checkpoint before the step, if there was one.
    """

    wait: float = 0.0
    update: float = 0.0
    save: float = 0.0
