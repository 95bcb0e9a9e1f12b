"""Which checkpoints of a run stay."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keeping:
    """The `newest` checkpoints stay, and those after every `every`-th optimizer step; with None no others."""

    newest: int
    every: int | None = None

    def superseded(self, complete: Sequence[int], present: Sequence[int]) -> list[int]:
        """Those of the `present` steps whose checkpoints can be deleted, given which of them are `complete`; both newest first.

        Only what is older than the newest complete ones is ever deleted, so a checkpoint that is being written stays.
        """
        if not complete:
            return []
        kept = {*complete[: self.newest], *(step for step in complete if self.every and step % self.every == 0)}
        oldest = complete[: self.newest][-1]
        return [step for step in present if step < oldest and step not in kept]
