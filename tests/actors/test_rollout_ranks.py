"""Rollout workers of two processes that share the base: the bits of one, and one life."""

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import ray
import torch
from ray import cloudpickle
from waiting import LIMIT_S, wait_for

from actors.rollout_pool import RolloutPool
from actors.rollout_worker import PublishedWeights, RolloutWorker
from fields.carriers import Weights
from fields.data.size import Size
from fields.lora.peft_files import read_adapter
from fields.memory.cost import Pass
from fields.method.plan import Group, Sample, Stream, generator
from fields.method.solver import Euler
from fields.method.states import RolloutSettings
from fields.method.time_grid import time_grid
from fields.numerics import Numerics
from fields.policy import Policy
from fields.ranks.ordered import OrderedRanks
from fields.scene.exam import task_row
from fields.scene.family import SceneFamily
from fields.scene.grammar import draw_task
from fields.versions import Unmerged

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

SETTINGS = RolloutSettings(seed=0, grid=time_grid(4), solver=Euler())
GROUP = Group(0, "text_to_image", tuple(Sample(n, "text_to_image", n, (3,)) for n in range(2)))
CONDITION = SceneFamily().encode([task_row(f"u{n}", draw_task("single", generator(0, Stream.ROW, n))) for n in range(2)])
CPU = torch.device("cpu")


class MarkingFamily(SceneFamily):
    """Marks in a folder which processes compute."""

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder

    def velocity(self, transformer, x_t, t, condition):
        (self._folder / str(os.getpid())).touch()
        return super().velocity(transformer, x_t, t, condition)


def build_policy(family, base, adapter, ranks=None):
    network = Unmerged(family.load_transformer(base), read_adapter(adapter).shape)
    return Policy(family, network, lambda size: SETTINGS, CPU, ranks)


@pytest.mark.slow
def test_a_worker_of_two_processes_rolls_out_with_the_bits_of_one(cluster, tiny_models, tmp_path):
    """With two versions and the bare base; and again once its second process was killed, by two others."""
    adapters = tiny_models.local_edit, tiny_models.global_edit
    versions = [Weights.of(n, read_adapter(adapter).tensors) for n, adapter in enumerate(adapters)]
    alone = build_policy(SceneFamily(), tiny_models.base, adapters[0])
    build = partial(build_policy, MarkingFamily(tmp_path), tiny_models.base, adapters[0])
    groups = [OrderedRanks(rank, 2, CPU, timeout_s=60.0, shards=True) for rank in range(2)]
    worker = ray.remote(RolloutWorker).options(num_cpus=0.1, max_restarts=-1)

    async def live() -> None:
        pool = RolloutPool(lambda _: worker.remote(build, Numerics(), groups, [{"num_cpus": 0.1}]), 1, "test", LIMIT_S)
        await pool.ready()
        published = [PublishedWeights.put(weights) for weights in versions]
        await pool.rehearse(Pass(2, Size(24, 24)), published[0])

        async def same(number: int) -> None:
            alone.load(versions[number])
            ((rolled_out, _),) = await pool.queries((GROUP,), [CONDITION], published[number])
            queries = rolled_out.sealed.open()
            (expected,) = alone.queries((GROUP,), [CONDITION])
            assert [query.checksum for query in queries] == [versions[number].checksum]
            assert torch.equal(queries[0].x_t, expected[0].x_t)
            assert torch.equal(await pool.velocity(queries[0], published[number]), alone.answer(expected[0]))

        await same(0)
        await same(1)
        alone.load(None)
        noise = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
        generated = await pool.generate(noise, SETTINGS.grid, CONDITION, None, 1.0)
        assert torch.equal(generated, alone.generate(noise, SETTINGS.grid, CONDITION))
        first = {int(path.name) for path in tmp_path.iterdir()}
        assert len(first) == 2
        os.kill(max(first), signal.SIGKILL)  # the one that started last, or the other: each ends both
        await same(0)
        anew = {int(path.name) for path in tmp_path.iterdir()} - first
        assert len(anew) == 2
        wait_for(lambda: not any(_alive(process) for process in first), "the end of both processes")
        pool.end()

    asyncio.run(live())


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
