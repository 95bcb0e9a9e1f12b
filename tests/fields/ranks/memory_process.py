"""What a rank's own process does to measure the memory that a step takes."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.multiprocessing

from fields.carriers import Example, Outline, Target
from fields.distiller import Distiller
from fields.lora.adapter import LoraShape
from fields.memory.cost import Pass
from fields.memory.rehearsal import largest_query
from fields.method.optimization import Optimization
from fields.numerics import Numerics
from fields.ranks.ordered import OrderedRanks
from fields.ranks.process_group import ProcessGroup
from fields.ranks.ranks import Alone, Ranks
from fields.ranks.sharded import ShardedRanks
from fields.ranks.share import Share
from fields.scene.family import SceneFamily
from fields.scene.transformer import SceneTransformer
from fields.student import FullStudent, LoraStudent, Student

Kind = Literal["lora", "full"]
ADAPTER = LoraShape(4, 4.0, ("to_qkv",))
GROUPS = 4  # of a sample each


def peaks(base: Path, kind: Kind, size: int, folder: Path) -> list[int]:
    """The most bytes that each rank held in two steps, beside what its process had before it loaded anything."""
    # Or glibc keeps what a gathered block leaves, for later: its threshold for giving memory back rises by itself.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
    try:
        ports = torch.multiprocessing.get_context("spawn").SimpleQueue()
        torch.multiprocessing.spawn(_work, (ports, base, kind, size, folder), nprocs=size)
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]
    return [int((folder / f"{rank}").read_text()) for rank in range(size)]


def _work(rank: int, ports: Any, base: Path, kind: Kind, size: int, folder: Path) -> None:
    Numerics().settle()
    ranks, family = _ranks(kind, rank, size), SceneFamily()
    if isinstance(ranks, ProcessGroup):
        if rank == 0:
            port = ranks.listen("127.0.0.1")
            for _ in range(size):
                ports.put(port)
        ranks.connect("127.0.0.1", ports.get())
    student: Student = FullStudent() if kind == "full" else LoraStudent(ADAPTER)
    examples = [_example(family, number) for number in range(GROUPS)]
    small = SceneTransformer(width=32, depth=1, heads=1)
    Distiller(family, small, student, Optimization(recompute=True), 0).update(examples)  # which loads code
    before = _status("VmRSS")
    distiller = Distiller(family, family.load_transformer(base), student, Optimization(recompute=True), 0, ranks=ranks)
    distiller.begin()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on: loading passes the whole network through the host
    share = Share.all([Outline.of(example.query) for example in examples], size, "mean")[rank]
    for _ in range(2):
        distiller.learn(share, [examples[place] for place in share.places])
    (folder / f"{rank}").write_text(str(_status("VmHWM") - before))


def _ranks(kind: Kind, rank: int, size: int) -> Ranks:
    if size == 1:
        return Alone()
    cpu = torch.device("cpu")
    return ShardedRanks(rank, size, cpu, 120.0) if kind == "full" else OrderedRanks(rank, size, cpu, 120.0, shards=True)


def _example(family: SceneFamily, sample_id: int) -> Example:
    query = replace(largest_query(family, Pass(1, family.default_size)), sample_ids=(sample_id,))
    velocity = torch.ones_like(query.x_t)
    return Example(query=query, target=Target(sample_ids=query.sample_ids, expert="x", t=query.t, velocity=velocity))


def _status(entry: str) -> int:
    """Bytes, as Linux says of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{entry}:")]
    return 1024 * int(line.split()[1])
