"""What a rank's own process does in the tests: it builds a student, takes steps with the others, and writes down its state."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch.distributed.tensor import DTensor

from fields.carriers import Example, Outline, Weights
from fields.distiller import Distiller
from fields.memory.cost import Pass
from fields.numerics import Numerics
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
        seed = ranks.rank if ranks else 0  # of another rank it doesn't matter: all begin as rank 0 does
        return Distiller(family, network, self.student, self.optimization, seed, objective=self.objective, ranks=ranks)


@dataclass(frozen=True)
class Held:
    """What a rank learned in each step, and holds after them."""

    learned: list[tuple[list[Learned], float]]
    weights: Weights
    averaged: Weights
    moments: dict[str, torch.Tensor]
    optimizer_values: int
    frozen_values: int


def take_steps(
    new_student: NewStudent, steps: Sequence[Sequence[Example]], size: int, folder: Path, shards: bool = False
) -> list[Held]:
    """So many processes take the steps together; what each has, by rank."""
    ports = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(_work, (size, ports, new_student, steps, folder, shards), nprocs=size)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _here(parameter: torch.Tensor) -> torch.Tensor:
    """What this process has of a parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def outlines(examples: Sequence[Example]) -> list[Outline]:
    """What a step's shares are made of."""
    return [Outline.of(example.query) for example in examples]


def _learn(student: Distiller, examples: Sequence[Example], share: Share) -> tuple[list[Learned], float]:
    return student.learn(share, [examples[place] for place in share.places])


def _work(
    rank: int,
    size: int,
    ports: Any,
    new_student: NewStudent,
    steps: Sequence[Sequence[Example]],
    folder: Path,
    shards: bool,
) -> None:
    Numerics().settle()
    group = ProcessGroup(rank, size, torch.device("cpu"), timeout_s=60, shards=shards)
    if rank == 0:
        port = group.listen("127.0.0.1")
        for _ in range(size):
            ports.put(port)
    student = new_student(group)
    group.connect("127.0.0.1", ports.get())
    student.begin()
    student.rehearse(Pass(2, (24, 24), edits=True))  # which leaves nothing behind
    reduction = student.objective.over_queries
    held = Held(
        learned=[_learn(student, examples, Share.all(outlines(examples), size, reduction)[rank]) for examples in steps],
        weights=student.weights(len(steps)),
        averaged=student.averaged_weights(len(steps)),
        moments=student.optimizer_tensors(),
        frozen_values=sum(_here(p).numel() for p in student.transformer.parameters() if not p.requires_grad),
        optimizer_values=sum(state["exp_avg"].numel() for state in student.optimizer.state.values()),
    )
    torch.save(held, folder / f"{rank}.pt")
