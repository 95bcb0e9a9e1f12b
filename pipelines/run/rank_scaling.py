"""How the learner grows with its ranks."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from actors.example_reference import AnswerReference, ExampleReference, GroupReference
from actors.learner_rank import LearnerRank
from actors.rank_group import RankGroup
from fields.carriers import Outline, Sealed, SealedQueries, Target
from fields.distiller import Distiller
from fields.memory.cost import Pass
from fields.memory.rehearsal import largest_query
from fields.method.optimization import Optimization
from fields.method.teaching import Lesson
from fields.numerics import Numerics
from fields.ranks.ordered import OrderedRanks
from fields.ranks.ranks import Alone, Ranks
from fields.scene.family import SceneFamily
from fields.student import LoraStudent
from pipelines.reports.measurement import Measurement
from pipelines.run.simulated import GROUPS, SHAPE, WARM_STEPS, SimulatedFamily, growth

_EXPERT = "simulated"


def rank_growth(sizes: Sequence[int], step_seconds: float, steps: int) -> Measurement:
    """Samples per second of so many ranks, each with the same work in a step.

    Args:
        sizes: numbers of ranks; ratios are to the smallest.
        step_seconds: that a rank's model takes for its samples of a step.
        steps: timed for each number of ranks.
    """
    timed = partial(_timed, SimulatedFamily(step_seconds / GROUPS), steps)
    return growth("ranks", sizes, step_seconds, timed)


async def _timed(family: SimulatedFamily, steps: int, base: Path, size: int) -> list[float]:
    """Seconds of each step, from its references to the updated student; it is published beside the next."""

    def build(ranks: Ranks) -> Distiller:
        return Distiller(family, family.load_transformer(base), LoraStudent(SHAPE), Optimization(), 0, ranks=ranks)

    rank: Any = ray.remote(LearnerRank).options(num_cpus=0.001)
    members: list[Ranks] = [OrderedRanks(number, size, torch.device("cpu"), timeout_s=600.0) for number in range(size)]
    if size == 1:
        members = [Alone()]
    group = RankGroup([rank.remote(build, member, Numerics(), "scaling") for member in members], "mean")
    try:
        await group.load()
        examples = [_example(number) for number in range(GROUPS * size)]
        seconds, published = [], []
        for step in range(WARM_STEPS + steps):
            began = time.perf_counter()
            await group.update(examples)
            published.append(group.weights(step + 1))
            seconds.append(time.perf_counter() - began)
        await asyncio.gather(*published)
        return seconds[WARM_STEPS:]
    finally:
        group.end()


def _example(sample_id: int) -> ExampleReference:
    query = replace(largest_query(SceneFamily(), Pass(1, SceneFamily().default_size)), sample_ids=(sample_id,))
    target = Target(sample_ids=query.sample_ids, expert=_EXPERT, t=query.t, velocity=torch.ones_like(query.x_t))
    group = GroupReference(
        queries=ray.put(SealedQueries.of((query,))),
        answers={_EXPERT: AnswerReference(ray.put([Sealed.of((target,))]), 0)},
        lesson=Lesson(shares={_EXPERT: (1.0,)}),
    )
    return ExampleReference(groups=(group,), place=0, outline=Outline.of(query))
