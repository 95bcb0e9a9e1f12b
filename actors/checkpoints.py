"""A run's checkpoints: written by the student's ranks, pruned, and copied beside the training where the run has a mirror."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyarrow import ArrowException
from ray.util.metrics import Counter

from actors.learning_student import LearningStudent
from actors.mirror import Mirror
from fields import checkpoint
from fields.keeping import Keeping

Written = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]

_COPY_S = 1800.0  # after which a copy is given up
_FINISH_S = 300.0  # that the end of a run waits for its last copy


class Checkpoints:
    """The newest checkpoints of a run.

    Training never waits for a copy. While one is on its way the next waits, a newer one takes that one's place, and nothing is
    deleted here.

    Args:
        folder: of the run.
        keeping: which stay, here and there.
        mirror: where they are copied to; None copies nothing.
        run: its name, for the metric.
        warn: is told of a copy that failed; the next checkpoint brings a newer one.
        written: makes a write, which it may repeat.
    """

    def __init__(
        self, folder: Path, keeping: Keeping, mirror: Mirror | None, run: str, warn: Callable[[str], None], written: Written
    ):
        self._folder = folder / "checkpoints"
        self._keeping = keeping
        self._mirror = mirror
        self._warn = warn
        self._written = written
        self._tags = {"run": run}
        self._failures = Counter("field_mirror_failures", "Checkpoints that could not be copied to the mirror.", ("run",))
        self._thread = ThreadPoolExecutor(max_workers=1)  # its own: a storage that hangs keeps no other work waiting
        self._writing = asyncio.Lock()
        self._copying: asyncio.Task[None] | None = None
        self._next: int | None = None

    async def newest(self, above: int) -> Path | None:
        """The newest complete one of more steps than `above`."""
        return await asyncio.to_thread(checkpoint.newest, self._folder, above)

    async def save(self, student: LearningStudent, step: int, recipe: Mapping[str, Any]) -> None:
        """Write the checkpoint after `step` steps; it is copied from now on.

        Raises:
            RanksLost: if a rank has ended or hangs.
        """
        async with self._writing:
            await self._written(lambda: student.save(self._folder, step, recipe))
        if self._mirror is None:
            await self._prune()
            return
        self._next = step
        if self._copying is None or self._copying.done():
            self._copying = asyncio.create_task(self._copy_all(self._mirror))

    async def finish(self) -> None:
        """Returns once nothing is on its way to the mirror any more, or after five minutes, with a warning."""
        if self._copying is not None and not (await asyncio.wait([self._copying], timeout=_FINISH_S))[0]:
            self._warn(f"the last checkpoint is not in checkpoint.mirror yet: its copy takes more than {_FINISH_S:.0f} s")

    async def _copy_all(self, mirror: Mirror) -> None:
        loop = asyncio.get_running_loop()
        while (step := self._next) is not None:
            self._next = None
            try:
                await asyncio.wait_for(loop.run_in_executor(self._thread, self._copy, mirror, step), _COPY_S)
            except (OSError, ValueError, ArrowException, TimeoutError) as error:
                self._failures.inc(tags=self._tags)
                reason = str(error) or f"not done after {_COPY_S:.0f} s"
                self._warn(f"the checkpoint after step {step} is not in checkpoint.mirror: {reason.splitlines()[0]}")
            await self._prune()

    async def _prune(self) -> None:
        async with self._writing:  # it deletes what looks half-written
            await self._written(lambda: asyncio.to_thread(checkpoint.prune, self._folder, self._keeping))

    def _copy(self, mirror: Mirror, step: int) -> None:
        mirror.store(checkpoint.folder_of(self._folder, step))
        mirror.prune(self._keeping)
