"""The same step of several runs in one process, one after the other: what else the machine does meets all of them alike."""

import time
from collections.abc import Mapping

from fields.carriers import Example
from fields.method.plan import Batch
from pipelines.parts.run_parts import RunParts
from pipelines.run.one_process import OneProcess


class Stepped:
    """A run in this process, one optimizer step after the other.

    Args:
        parts: of the run.
        to_the_end: whether a rollout goes on to the clean image, for nothing.
    """

    def __init__(self, parts: RunParts, to_the_end: bool = False):
        parts.config.numerics.build().settle()
        self._parts = parts
        self._one = OneProcess(parts)
        self._to_the_end = to_the_end

    def step(self, step: int) -> None:
        """One optimizer step."""
        self._one.policy.load(self._one.distiller.weights(step))
        self._one.distiller.update([example for batch in self._parts.plan.batches(step) for example in self._examples(batch)])

    def _examples(self, batch: Batch) -> list[Example]:
        states = self._one.states(batch, [self._one.encode(group) for group in batch])
        for group, queries in zip(batch, states, strict=True):
            for _ in range(int(group.indices.max()), self._parts.config.rollout.steps if self._to_the_end else 0):
                self._one.policy.answer(queries[-1])
        return [Example.joined(list(map(self._one.learn, batch, queries))) for queries in zip(*states, strict=True)]


def cpu_seconds(runs: Mapping[str, Stepped], steps: int) -> dict[str, list[float]]:
    """The CPU seconds of each run's steps, after one that warms up.

    Args:
        runs: by name.
        steps: timed of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(steps + 1):
        for name, run in runs.items():
            began = time.process_time()
            run.step(step)
            seconds[name].append(time.process_time() - began)
    return {name: values[1:] for name, values in seconds.items()}
