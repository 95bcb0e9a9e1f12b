"""What a rank's own process does in the tests: it builds a student, takes steps with the others, and writes down its state."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.multiprocessing
from torch.distributed.tensor import DTensor

from fields import checkpoint
from fields.carriers import Example, Outline, Weights
from fields.data.size import Size
from fields.distiller import Distiller
from fields.memory.cost import Pass
from fields.numerics import Numerics
from fields.ranks.ordered import OrderedRanks
from fields.ranks.process_group import ProcessGroup
from fields.ranks.sharded import ShardedRanks
from fields.ranks.share import Learned, Share
from fields.scene.family import SceneFamily

KINDS = ("student", "ema", "optimizer/exp_avg/", "optimizer/exp_avg_sq/")


class HalfFamily(SceneFamily):
    """The scene's network in bfloat16."""

    def velocity(self, transformer, x_t, t, condition):
        with torch.autocast("cpu", torch.bfloat16):
            return super().velocity(transformer, x_t, t, condition).float()


@dataclass(frozen=True)
class NewStudent:
    """Builds a student over the base in a folder, in any process."""

    base: Path
    student: Any
    optimization: Any
    objective: Any = None
    half: bool = False

    def __call__(self, ranks: Any = None) -> Distiller:
        family = HalfFamily() if self.half else SceneFamily()
        network = family.load_transformer(self.base)
        if self.half:
            network.to(torch.bfloat16)
        seed = ranks.rank if ranks else 0  # of another rank it doesn't matter: all begin as rank 0 does
        return Distiller(family, network, self.student, self.optimization, seed, objective=self.objective, ranks=ranks)


@dataclass(frozen=True)
class Held:
    """What a rank learned in each step, and holds after them: what it says of the whole, and how many values are its own."""

    learned: list[tuple[list[Learned], float]]
    weights: Weights
    averaged: Weights
    moments: dict[str, torch.Tensor]
    optimizer_values: int
    frozen_values: int
    state_values: dict[str, int]


Kind = Literal["ordered", "frozen shared", "all shared"]


@dataclass(frozen=True)
class Together:
    """How processes take steps: what they share, the checkpoint that they continue from, and the one that they write."""

    size: int
    kind: Kind = "ordered"
    resume: Path | None = None
    save_after: int | None = None


def take_steps(new_student: NewStudent, steps: Sequence[Sequence[Example]], folder: Path, together: Together) -> list[Held]:
    """So many processes take the steps together; what each has, by rank."""
    ports = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(_work, (ports, new_student, steps, folder, together), nprocs=together.size)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(together.size)]


def _here(parameter: torch.Tensor) -> torch.Tensor:
    """What this process has of a parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _group(rank: int, together: Together) -> ProcessGroup:
    cpu = torch.device("cpu")
    if together.kind == "all shared":
        return ShardedRanks(rank, together.size, cpu, timeout_s=60)
    return OrderedRanks(rank, together.size, cpu, timeout_s=60, shards=together.kind == "frozen shared")


def outlines(examples: Sequence[Example]) -> list[Outline]:
    """What a step's shares are made of."""
    return [Outline.of(example.query) for example in examples]


def _learn(student: Distiller, examples: Sequence[Example], share: Share) -> tuple[list[Learned], float]:
    return student.learn(share, [examples[place] for place in share.places])


def _work(
    rank: int, ports: Any, new_student: NewStudent, steps: Sequence[Sequence[Example]], folder: Path, together: Together
) -> None:
    Numerics().settle()
    group = _group(rank, together)
    if rank == 0:
        port = group.listen("127.0.0.1")
        for _ in range(together.size):
            ports.put(port)
    group.connect("127.0.0.1", ports.get())
    student = new_student(group)
    student.begin()
    if together.resume:
        checkpoint.restore(together.resume, student)
    student.rehearse(Pass(2, Size(24, 24), sources=1))  # which leaves nothing behind
    reduction, learned = student.objective.over_queries, []
    for number in range(len(steps) + 1):
        if number:
            share = Share.all(outlines(steps[number - 1]), together.size, reduction)[rank]
            learned.append(_learn(student, steps[number - 1], share))
        if number == together.save_after:
            checkpoint.save(folder / "checkpoints", number, student, {number: student.weights(number)}, {})
    whole = student.weights(len(steps)) if group.shards_student else Weights.of(len(steps), student.parameters)
    kinds = {kind: [_here(t) for name, t in student.state().items() if name.startswith(kind)] for kind in KINDS}
    held = Held(
        learned=learned,
        weights=whole,
        averaged=student.averaged_weights(len(steps)),
        moments=student.optimizer_tensors(),
        frozen_values=sum(_here(p).numel() for p in student.transformer.parameters() if not p.requires_grad),
        optimizer_values=sum(_here(state["exp_avg"]).numel() for state in student.optimizer.state.values()),
        state_values={kind: sum(tensor.numel() for tensor in tensors) for kind, tensors in kinds.items()},
    )
    torch.save(held, folder / f"{rank}.pt")
