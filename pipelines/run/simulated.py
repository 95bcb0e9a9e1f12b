"""What grows with the number of processes, measured where the model's own time is simulated: this machine's cores don't limit
it then."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import ray
from torch import Tensor, nn

from fields.carriers import Condition
from fields.lora.adapter import LoraShape
from fields.scene.family import SceneFamily, save_transformer
from fields.scene.transformer import SceneTransformer
from pipelines.cluster import connect
from pipelines.reports.measurement import Measurement, spread

WARM_STEPS = 1
GROUPS = 4  # of each process in a step, a sample each
SHAPE = LoraShape(128, 128.0, ("to_qkv", "to_out", "ff_in", "ff_out"))  # of the base here: 8.4 MB

Timed = Callable[[Path, int], Coroutine[Any, Any, list[float]]]


class SimulatedFamily(SceneFamily):
    """A small network whose forward takes the time of a large one's, or of its forward and backward.

    Args:
        seconds: of a sample.
    """

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def velocity(self, transformer: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        time.sleep(self.seconds * len(t))
        return super().velocity(transformer, x_t, t, condition)


def growth(who: str, sizes: Sequence[int], model_seconds: float, timed: Timed) -> Measurement:
    """Samples per second by the number of processes, on a cluster that is started unless there is one.

    Args:
        who: they are; also the table's name.
        sizes: how many; growth is against the smallest.
        model_seconds: simulated ones of each process in a step.
        timed: the steps of so many of them, over the base in a folder: the seconds of each.
    """
    if not ray.is_initialized():
        connect.start(print, include_dashboard=False)
    with tempfile.TemporaryDirectory() as folder:
        save_transformer(SceneTransformer(width=256, depth=4, heads=4), Path(folder))
        seconds = {size: asyncio.run(timed(Path(folder), size)) for size in sizes}
    least = statistics.median(seconds[min(seconds)])  # seconds of a step, which linear growth keeps
    rows = []
    for size, taken in seconds.items():
        step = statistics.median(taken)
        rates = [GROUPS * size / one for one in taken]
        rows.append([str(size), *spread(rates), f"{least / step:.2f}", f"{step - model_seconds:.2f}"])
    return Measurement(
        name=who,
        title=f"Samples per second by the number of {who} ({GROUPS} samples of each in a step, {model_seconds:g} s of its "
        "model simulated)",
        columns=[who, "median", "lowest", "highest", "of linear", "beside the model, s per step"],
        rows=rows,
        raw={"step_seconds": seconds},
    )
