"""Where a run's curves and pictures go beside its own files: `run.loggers` names them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fields.data.images import to_bytes


class Logger(ABC):
    """Takes what the journal records, from optimizer step `start` of a run on; `folder` is the run's."""

    package: ClassVar[str]

    @abstractmethod
    def __init__(self, folder: Path, start: int): ...

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves, by name."""

    @abstractmethod
    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """An image, float (3, H, W) in [0, 1]."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still held back."""


class TensorBoardLogger(Logger):
    """Event files in the run's folder; what an interrupted run wrote beyond `start` is hidden."""

    package = "tensorboard"

    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._board.add_image(name, image, step)
        self._board.flush()

    def close(self) -> None:
        self._board.close()


class WandbLogger(Logger):
    """Weights & Biases. A resumed run is a new one there, in the group of its name: its steps may go back."""

    package = "wandb"

    def __init__(self, folder: Path, start: int):
        import wandb  # pyright: ignore[reportMissingImports]  # an extra

        self._wandb: Any = wandb
        name = folder.name if start == 0 else f"{folder.name} from step {start}"
        self._run: Any = wandb.init(project="fieldweave", group=folder.name, name=name, dir=str(folder))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self._run.log({name: self._wandb.Image(to_bytes(image))}, step=step)

    def close(self) -> None:
        self._run.finish()


LOGGERS: Mapping[str, type[Logger]] = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger}


def check_loggers(names: Sequence[str]) -> None:
    """Raise ValueError for a logger whose package is not installed."""
    for name in names:
        if find_spec(package := LOGGERS[name].package) is None:
            raise ValueError(f"{name!r} needs the package {package!r}, which is not installed: pip install {package}")
