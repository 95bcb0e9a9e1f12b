"""What a sample costs by the released trainer's schedule, and by this one, with the same models in one process.

The released DanceOPD trainer rolls every sample out to its end, one at a time and with the adapter beside the weights, encodes
its prompt again, and computes activations again in the backward. Here a rollout ends at its last query, groups share their
forwards, an adapter is merged once per step, and activations are kept where there is room. Routing, queries and loss are the
same, and so are the 16 steps of a rollout.
"""

import time
from pathlib import Path

from fields.carriers import Example
from fields.method.plan import Batch
from pipelines.config.load import load_config
from pipelines.parts.check_files import checked_parts
from pipelines.parts.run_parts import RunParts
from pipelines.reports.measurement import Measurement, spread
from pipelines.run.one_process import OneProcess

RELEASED = (
    *("rollout.group_size=1", "rollout.mix_routes=false", "rollout.merge=false"),
    *("learner.micro_batch=1", "learner.recompute=always"),
)
SAME = ("rollout.steps=16", "eval.every=0")


class _Schedule:
    """A run in this process, one optimizer step after the other.

    Args:
        parts: of the run.
        to_the_end: whether a rollout goes on to the clean image, for nothing.
    """

    def __init__(self, parts: RunParts, to_the_end: bool):
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


def schedules(path: Path, steps: int) -> Measurement:
    """CPU seconds of a sample by each schedule, a step of one after a step of the other, and their ratio.

    Args:
        path: of the run's configuration.
        steps: timed of each, after one that warms up.
    """
    settings = {"the released trainer's": RELEASED, "ours, in one process": ()}
    sides = {
        name: _Schedule(checked_parts(load_config(path, [*SAME, *own])), to_the_end=bool(own)) for name, own in settings.items()
    }
    batch_size = load_config(path, []).learner.batch_size
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for step in range(steps + 1):
        for name, side in sides.items():
            began = time.process_time()
            side.step(step)
            seconds[name].append((time.process_time() - began) / batch_size)
    timed = {name: values[1:] for name, values in seconds.items()}
    ratios = [theirs / ours for theirs, ours in zip(*timed.values(), strict=True)]
    rows = [[name, *spread([1000 * value for value in values])] for name, values in timed.items()]
    return Measurement(
        name="schedules",
        title=f"CPU milliseconds of a sample by each schedule ({steps} steps of each, in turn)",
        columns=["schedule", "median", "lowest", "highest"],
        rows=[*rows, ["ratio, step by step", *spread(ratios)]],
        raw={"cpu_seconds_per_sample": timed, "ratios": ratios},
    )
