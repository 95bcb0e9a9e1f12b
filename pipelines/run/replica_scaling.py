"""How the answers of an expert grow with its replicas."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import ray

from fields.carriers import SealedQueries
from fields.field import Field
from fields.memory.cost import Pass
from fields.memory.rehearsal import largest_query
from fields.numerics import Numerics
from fields.ranks.ranks import Ranks
from fields.scene.family import SceneFamily
from pipelines.reports.measurement import Measurement
from pipelines.run.simulated import GROUPS, WARM_STEPS, SimulatedFamily, growth
from services import applications
from services.client import CallLimits
from services.expert import expert_application
from services.expert_client import ExpertClient
from services.resources import Resources

_EXPERT = "simulated"
_APPLICATION = "bench-replicas"


def replica_growth(sizes: Sequence[int], step_seconds: float, steps: int) -> Measurement:
    """Answered samples per second of so many replicas, with calls waiting for each all the time.

    Args:
        sizes: numbers of replicas; ratios are to the smallest.
        step_seconds: that a replica's model takes for its samples of a step.
        steps: timed for each number of replicas.
    """
    return growth("replicas", sizes, step_seconds, partial(_timed, SimulatedFamily(step_seconds / GROUPS), steps))


async def _timed(family: SimulatedFamily, steps: int, base: Path, size: int) -> list[float]:
    """Seconds in which each step's number of answers came, one after the other."""

    def build(ranks: Ranks) -> Field:
        return Field.build(_EXPERT, family, {_EXPERT: (family.load_transformer(base), None)}, ranks=ranks)

    expert = expert_application(build, Numerics(), {}, Resources(replicas=size, num_cpus=0.001))
    await asyncio.to_thread(applications.deploy, {_APPLICATION: expert})
    in_a_step = GROUPS * size
    client = ExpertClient(_APPLICATION, _EXPERT, "bench", CallLimits(concurrency=in_a_step), shared=False)
    query = largest_query(SceneFamily(), Pass(1, SceneFamily().default_size))
    came: list[float] = []

    async def asked(number: int) -> None:
        sealed = ray.put(SealedQueries.of((replace(query, sample_ids=(number,)),)))
        ray.get(await client.answer([_EXPERT], [sealed]))
        came.append(time.perf_counter())

    try:
        await asyncio.gather(*(asked(number) for number in range((WARM_STEPS + steps) * in_a_step)))
    finally:
        await asyncio.to_thread(applications.delete_and_wait, [_APPLICATION])
    ends = came[in_a_step * WARM_STEPS - 1 :: in_a_step]
    return [after - before for before, after in pairwise(ends)]
