"""What a rank's own process does in the tests: it builds a student, takes steps with the others, and writes down its state."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from fields.carriers import Example, Weights
from fields.distiller import Distiller
from fields.ranks.process_group import ProcessGroup
from fields.ranks.share import Learned, Share
from fields.scene.family import SceneFamily


@dataclass(frozen=True)
class NewStudent:
    """Builds a student over the base in a folder, in any process."""

    base: Path
    student: Any
    optimization: Any
    objective: Any = None

    def __call__(self, ranks: Any = None) -> Distiller:
        family = SceneFamily()
        network = family.load_transformer(self.base)
        return Distiller(family, network, self.student, self.optimization, 0, objective=self.objective, ranks=ranks)


@dataclass(frozen=True)
class Held:
    """What a rank learned in each step, and holds after them."""

    learned: list[tuple[list[Learned], float]]
    weights: Weights
    averaged: Weights
    moments: dict[str, torch.Tensor]
    optimizer_values: int


def take_steps(new_student: NewStudent, steps: Sequence[Sequence[Example]], size: int, folder: Path) -> list[Held]:
    """So many processes take the steps together; what each has, by rank."""
    torch.multiprocessing.spawn(_work, (size, _free_address(), new_student, steps, folder), nprocs=size)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def _work(
    rank: int, size: int, address: str, new_student: NewStudent, steps: Sequence[Sequence[Example]], folder: Path
) -> None:
    torch.set_num_threads(1)
    student = new_student(ProcessGroup(address, rank, size, torch.device("cpu"), timeout_s=60))
    held = Held(
        learned=[student.learn(Share.all(examples, size)[rank]) for examples in steps],
        weights=student.weights(len(steps)),
        averaged=student.averaged_weights(len(steps)),
        moments=student.optimizer_tensors(),
        optimizer_values=sum(state["exp_avg"].numel() for state in student.optimizer.state.values()),
    )
    torch.save(held, folder / f"{rank}.pt")
