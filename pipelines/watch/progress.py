"""What a person sees of a run while it goes on: a live bar on a terminal, readable lines elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fields.update import Update

_SECONDS_BETWEEN_LINES = 15.0


class Display:
    """Shows messages and the training's progress; a context manager.

    Args:
        start: steps already done.
        steps: steps in all.
    """

    def __init__(self, console: Console, start: int, steps: int):
        self._console = console
        self._steps = steps
        self._last_line = 0.0
        self._step = start
        self._bar = Progress(
            TextColumn("step"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, completed=start)

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """One line about what happens now."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)  # it may quote what was raised

    def update(self, step: int, update: Update, samples: int, seconds: float, staleness: int) -> None:
        """After `step` steps: the bar, or every few seconds a line."""
        losses = "  ".join(f"{route} {loss:.3f}" for route, loss in sorted(update.route_loss.items()))
        rate = samples / seconds if seconds else 0.0
        text = f"loss {losses}  {rate:.1f} samples/s  staleness {staleness}"
        self._bar.update(self._task, completed=step, description=text)
        if not self._console.is_terminal and (
            time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES or step == self._steps
        ):
            self._last_line = time.monotonic()
            self.say(f"step {step}/{self._steps}  {text}")
