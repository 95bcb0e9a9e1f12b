"""When a run does what."""

from dataclasses import dataclass

from fields.keeping import Keeping
from fields.method.lag import Lag


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """In optimizer steps: the first step to do, the number of steps in all, the rollouts' lag, what happens when, and which
    checkpoints stay."""

    start: int
    steps: int
    lag: Lag
    checkpoint_every: int
    keeping: Keeping
    evaluate_every: int

    def saves_after(self, step: int) -> bool:
        """Whether a checkpoint is due once `step` steps are done; the last one always is."""
        return step % self.checkpoint_every == 0 or step == self.steps

    def evaluates_after(self, step: int) -> bool:
        """Whether an exam is due once `step` steps are done; the last one is taken after training."""
        return self.evaluate_every > 0 and step % self.evaluate_every == 0 and step < self.steps
