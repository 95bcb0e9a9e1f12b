"""What grows with the number of processes, measured where the model's own time is simulated: this machine's cores don't limit
it then."""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from torch import Tensor, nn

from fields.carriers import Condition
from fields.lora.adapter import LoraShape
from fields.scene.family import SceneFamily, save_transformer
from fields.scene.transformer import SceneTransformer

WARM_STEPS = 1
GROUPS = 4  # of each process in a step, a sample each
SHAPE = LoraShape(128, 128.0, ("to_qkv", "to_out", "ff_in", "ff_out"))


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


def write_small_network(folder: Path) -> None:
    """A base whose adapter of `SHAPE` has 8.4 MB."""
    save_transformer(SceneTransformer(width=256, depth=4, heads=4), folder)


def growth_table(who: str, seconds: Mapping[int, Sequence[float]], model_seconds: float) -> Table:
    """Samples per second by the number of processes.

    Args:
        who: they are.
        seconds: of each step, by their number; growth is against the smallest.
        model_seconds: simulated ones of each process in a step.
    """
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
