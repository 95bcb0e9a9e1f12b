"""How rollouts grow with their workers."""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from rich.table import Table

from actors.rollout_pool import RolloutPool
from actors.rollout_worker import PublishedWeights, RolloutWorker
from fields.carriers import Weights
from fields.lora.adapter import add_lora
from fields.memory.cost import Pass
from fields.memory.rehearsal import largest_query
from fields.method.plan import Group, Sample
from fields.method.solver import Euler
from fields.method.states import RolloutSettings
from fields.method.time_grid import time_grid
from fields.numerics import Numerics
from fields.policy import Policy
from fields.ranks.ranks import Ranks
from fields.scene.family import SceneFamily
from fields.student import LoraStudent
from fields.versions import Merged
from pipelines.cluster import connect
from pipelines.run.simulated import GROUPS, SHAPE, WARM_STEPS, SimulatedFamily, growth_table, write_small_network

_FORWARDS = 3  # from noise to a sample's query
_SETTINGS = RolloutSettings(seed=0, grid=time_grid(_FORWARDS + 1), solver=Euler())
_ROUTE = "simulated"


@dataclass(frozen=True, slots=True)
class _BuildPolicy:
    base: Path
    family: SimulatedFamily

    def __call__(self, ranks: Ranks) -> Policy:
        versions = Merged(self.family.load_transformer(self.base), LoraStudent(SHAPE))
        return Policy(self.family, versions, lambda size: _SETTINGS, ranks=ranks)


def worker_table(sizes: Sequence[int], step_seconds: float, steps: int) -> Table:
    """Samples per second of so many workers, each with the same work in a step, and a new version of the student in each.

    Args:
        sizes: numbers of workers; ratios are to the smallest.
        step_seconds: that a worker's model takes for its samples of a step.
        steps: timed for each number of workers.
    """
    if not ray.is_initialized():
        connect.start(print, include_dashboard=False)
    with tempfile.TemporaryDirectory() as folder:
        write_small_network(Path(folder))
        build = _BuildPolicy(Path(folder), SimulatedFamily(step_seconds / GROUPS / _FORWARDS))
        seconds = {size: asyncio.run(_timed(build, size, steps)) for size in sizes}
    return growth_table("Rollout workers", seconds, step_seconds)


async def _timed(build: _BuildPolicy, size: int, steps: int) -> list[float]:
    """Seconds of each step, from the student's tensors to all queries."""
    worker: Any = ray.remote(RolloutWorker).options(num_cpus=0.001)
    pool = RolloutPool(lambda number: worker.remote(build, Numerics()), size, "scaling")
    tensors = add_lora(SceneFamily().load_transformer(build.base), SHAPE, seed=0)
    condition = largest_query(SceneFamily(), Pass(1, SceneFamily().default_size)).condition
    groups = [Group(0, _ROUTE, (Sample(n, _ROUTE, n, (_FORWARDS,)),)) for n in range(GROUPS * size)]
    try:
        await pool.ready()
        seconds = []
        for step in range(WARM_STEPS + steps):
            began = time.perf_counter()
            published = await asyncio.to_thread(PublishedWeights.put, Weights.of(step, tensors))
            await asyncio.gather(*(pool.queries(group, condition, published) for group in groups))
            seconds.append(time.perf_counter() - began)
        return seconds[WARM_STEPS:]
    finally:
        pool.end()
