"""How rollouts grow with their workers."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray

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
from pipelines.reports.measurement import Measurement
from pipelines.run.simulated import GROUPS, SHAPE, WARM_STEPS, SimulatedFamily, growth

_FORWARDS = 3  # from noise to a sample's query
_SETTINGS = RolloutSettings(seed=0, grid=time_grid(_FORWARDS + 1), solver=Euler())
_ROUTE = "simulated"
_HANGS_S = 600.0


def worker_growth(sizes: Sequence[int], step_seconds: float, steps: int) -> Measurement:
    """Samples per second of so many workers, each with the same work in a step, and a new version of the student in each.

    Args:
        sizes: numbers of workers; ratios are to the smallest.
        step_seconds: that a worker's model takes for its samples of a step.
        steps: timed for each number of workers.
    """
    timed = partial(_timed, SimulatedFamily(step_seconds / GROUPS / _FORWARDS), steps)
    return growth("workers", sizes, step_seconds, timed)


async def _timed(family: SimulatedFamily, steps: int, base: Path, size: int) -> list[float]:
    """Seconds of each step, from the student's tensors to all queries."""

    def build(ranks: Ranks) -> Policy:
        versions = Merged(family.load_transformer(base), LoraStudent(SHAPE))
        return Policy(family, versions, lambda size: _SETTINGS, ranks=ranks)

    worker: Any = ray.remote(RolloutWorker).options(num_cpus=0.001)
    pool = RolloutPool(lambda number: worker.remote(build, Numerics()), size, "scaling", watchdog_s=_HANGS_S)
    tensors = add_lora(SceneFamily().load_transformer(base), SHAPE, seed=0)
    condition = largest_query(SceneFamily(), Pass(1, SceneFamily().default_size)).condition
    groups = [Group(0, _ROUTE, (Sample(n, _ROUTE, n, (_FORWARDS,)),)) for n in range(GROUPS * size)]
    try:
        await pool.ready()
        seconds = []
        for step in range(WARM_STEPS + steps):
            began = time.perf_counter()
            published = await asyncio.to_thread(PublishedWeights.put, Weights.of(step, tensors))
            await asyncio.gather(*(pool.queries((group,), [condition], published) for group in groups))
            seconds.append(time.perf_counter() - began)
        return seconds[WARM_STEPS:]
    finally:
        pool.end()
