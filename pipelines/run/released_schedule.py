"""What a sample costs by the released trainer's schedule, and by this one, with the same models in one process.

The released DanceOPD trainer rolls every sample out to its end, one at a time and with the adapter beside the weights, encodes
its prompt again, and computes activations again in the backward. Here a rollout ends at its last query, groups share their
forwards, an adapter is merged once per step, and activations are kept where there is room. Routing, queries and loss are the
same, and so are the 16 steps of a rollout.
"""

from pathlib import Path

from pipelines.config.load import load_config
from pipelines.parts.check_files import checked_parts
from pipelines.reports.measurement import Measurement, spread
from pipelines.run.in_turn import Stepped, cpu_seconds

RELEASED = (
    *("rollout.group_size=1", "rollout.mix_routes=false", "rollout.merge=false"),
    *("learner.micro_batch=1", "learner.recompute=always"),
)
SAME = ("rollout.steps=16", "eval.every=0")


def schedules(path: Path, steps: int) -> Measurement:
    """CPU seconds of a sample by each schedule, a step of one after a step of the other, and their ratio.

    Args:
        path: of the run's configuration.
        steps: timed of each, after one that warms up.
    """
    settings = {"the released trainer's": RELEASED, "ours, in one process": ()}
    sides = {
        name: Stepped(checked_parts(load_config(path, [*SAME, *own])), to_the_end=bool(own)) for name, own in settings.items()
    }
    batch_size = load_config(path, []).learner.batch_size
    timed = {name: [value / batch_size for value in values] for name, values in cpu_seconds(sides, steps).items()}
    ratios = [theirs / ours for theirs, ours in zip(*timed.values(), strict=True)]
    rows = [[name, *spread([1000 * value for value in values])] for name, values in timed.items()]
    return Measurement(
        name="schedules",
        title=f"CPU milliseconds of a sample by each schedule ({steps} steps of each, in turn)",
        columns=["schedule", "median", "lowest", "highest"],
        rows=[*rows, ["ratio, step by step", *spread(ratios)]],
        raw={"cpu_seconds_per_sample": timed, "ratios": ratios},
    )
