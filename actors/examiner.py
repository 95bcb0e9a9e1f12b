"""The exam of a model that is reached through the cluster: the student by rollout workers, an expert by its service."""

import asyncio
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from actors.rollout_pool import RolloutPool
from actors.rollout_worker import PublishedWeights
from fields.carriers import Condition, Query, Weights
from fields.evaluation.base import Evaluation, ExamResult, KeptAnswers, Sheet
from fields.evaluation.mismatch import mismatch
from fields.families.base import Family
from fields.method.time_grid import Grid
from services.encoders import Encoders
from services.expert_access import ExpertAccess
from services.studio import Generate


class Examiner:
    """Gives the same exam to whoever takes it, all sheets in flight together; used from one event loop.

    Args:
        exam: the questions.
        family: says which size a row has.
        grid: the rollout's times, by size.
        encoders: of the condition; the run's own decodes too: the VAE is loaded there.
        rollouts: the rollout workers.
    """

    def __init__(
        self,
        *,
        exam: Evaluation,
        family: Family,
        grid: Grid,
        encoders: Encoders,
        rollouts: RolloutPool,
    ):
        self._exam = exam
        self._family = family
        self._grid = grid
        self._encoders = encoders
        self._rollouts = rollouts

    async def student(self, weights: Weights | None, guidance: float = 1.0) -> ExamResult:
        """The student with these weights, None is the bare base; a guidance of 1 is the student alone."""
        published = PublishedWeights.put(weights) if weights else None

        async def generate(noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
            return await self._rollouts.generate(noise, grid, condition, published, guidance)

        return await self._take(generate, self._encoders)

    async def mismatch(self, query: Query, weights: PublishedWeights, learned: Tensor) -> float:
        """How far the rollout workers' student with these weights is from the learner's, whose velocity at the query's states
        is given."""
        asked = (self._rollouts.velocity(query, published) for published in (weights, None))
        rolled_out, base = await asyncio.gather(*asked)
        return mismatch(rolled_out, learned, base)

    async def expert(self, name: str, access: ExpertAccess) -> ExamResult:
        """An expert, by its own ODE."""
        return await self._take(partial(access.client.generate, name), access.encoders, access.models)

    async def _take(self, generate: Generate, encoders: Encoders, models: Sequence[str] = ()) -> ExamResult:
        async def answer(sheet: Sheet) -> KeptAnswers:
            condition = await encoders.encode(sheet.rows, models)
            grid = self._grid(self._family.size(sheet.rows[0]))
            made = await self._encoders.decode(await generate(sheet.noise, grid, condition))
            return self._exam.kept(made)

        return self._exam.result(await asyncio.gather(*(answer(sheet) for sheet in self._exam.sheets)))
