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
from rich.table import Table
from torch import Tensor, nn

from fields.carriers import Condition
from fields.lora.adapter import LoraShape
from fields.scene.family import SceneFamily, save_transformer
from fields.scene.transformer import SceneTransformer
from pipelines.cluster import connect

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


def growth_table(who: str, sizes: Sequence[int], model_seconds: float, timed: Timed) -> Table:
    """Samples per second by the number of processes, on a cluster that is started unless there is one.

    Args:
        who: they are.
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
    simulated = f"{GROUPS} samples of each in a step, {model_seconds:g} s of simulated model time"
    table = Table(title=f"{who}, samples per second ({simulated})")
    for column in ("number", "median", "lowest", "highest", "of linear", "beside the model, s per step"):
        table.add_column(column, justify="right")
    for size, taken in seconds.items():
        rates = [GROUPS * size / one for one in taken]
        table.add_row(
            str(size),
            *(f"{value:.2f}" for value in (statistics.median(rates), min(rates), max(rates))),
            f"{least / statistics.median(taken):.2f}",
            f"{statistics.median(taken) - model_seconds:.2f}",
        )
    return table
