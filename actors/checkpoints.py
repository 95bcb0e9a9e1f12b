"""A run's checkpoints: written by the student's ranks, pruned, and copied beside the training where the run has a mirror."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyarrow import ArrowException
from ray.util.metrics import Counter

from actors.learning_student import LearningStudent
from actors.mirror import Mirror
from fields import checkpoint

_MOST_BEHIND = 2  # copies that are not done; training waits only then
_COPY_S = 1800.0  # after which a copy is given up


class Checkpoints:
    """The newest checkpoints of a run.

    Args:
        folder: of the run.
        keep: how many stay; with a mirror at least 2, since one may be on its way there.
        mirror: where they are copied to; None copies nothing.
        run: its name, for the metric.
        warn: is told of a copy that failed; the next checkpoint brings a newer one.
    """

    def __init__(self, folder: Path, keep: int, mirror: Mirror | None, run: str, warn: Callable[[str], None]):
        self._folder = folder / "checkpoints"
        self._keep = keep
        self._mirror = mirror
        self._warn = warn
        self._tags = {"run": run}
        self._failures = Counter("field_mirror_failures", "Checkpoints that could not be copied to the mirror.", ("run",))
        self._copies: list[asyncio.Task[None]] = []

    async def newest(self, above: int) -> Path | None:
        """The newest complete one of more steps than `above`."""
        return await asyncio.to_thread(checkpoint.newest, self._folder, above)

    async def save(self, student: LearningStudent, step: int, recipe: Mapping[str, Any]) -> None:
        """Write the checkpoint after `step` steps; it is copied from now on.

        Raises:
            RanksLost: if a rank has ended or hangs.
        """
        self._copies = [copy for copy in self._copies if not copy.done()]
        while len(self._copies) >= _MOST_BEHIND:
            await self._copies.pop(0)
        await student.save(self._folder, step, recipe)
        await asyncio.to_thread(checkpoint.prune, self._folder, self._keep)
        if self._mirror is not None:
            before = self._copies[-1] if self._copies else None
            self._copies.append(asyncio.create_task(self._copied(self._mirror, step, before)))

    async def finish(self) -> None:
        """Returns once nothing is on its way to the mirror any more."""
        await asyncio.gather(*self._copies)

    async def _copied(self, mirror: Mirror, step: int, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        try:
            await asyncio.wait_for(asyncio.to_thread(self._copy, mirror, step), _COPY_S)
        except (OSError, ArrowException, TimeoutError) as error:
            self._failures.inc(tags=self._tags)
            reason = str(error) or f"not done after {_COPY_S:.0f} s"
            self._warn(f"the checkpoint after step {step} is not in checkpoint.mirror: {reason.splitlines()[0]}")

    def _copy(self, mirror: Mirror, step: int) -> None:
        mirror.store(checkpoint.folder_of(self._folder, step))
        mirror.keep(self._keep)
