"""An expert as a Serve application: one frozen velocity field with its own replicas, resources and health."""

import asyncio
from collections.abc import Callable

import torch
from ray import serve
from ray.serve import Application
from torch import Tensor

from fields.carriers import Condition, Query, Target
from fields.field import Field
from fields.rollout import rollout
from services.process_metrics import ProcessMetrics
from services.resources import Resources


class ExpertService:
    """Answers queries with the velocities of one field.

    Calls are pure, so a caller may repeat one that was lost. The methods are async and compute in a thread, one call at
    a time: a busy replica still answers its health check, and a hung one is noticed.

    Args:
        build_field: loads the field, on this replica's device.
        threads: torch threads; the same in every process of a run, or sums are reordered.
    """

    def __init__(self, build_field: Callable[[], Field], threads: int):
        torch.set_num_threads(threads)
        self._field = build_field()
        self._metrics = ProcessMetrics()
        self._turn = asyncio.Lock()

    async def answer(self, query: Query) -> Target:
        """The field's velocities at the query's states."""
        async with self._turn:
            target = await asyncio.to_thread(self._field.answer, query)
        self._metrics.record_memory()
        return target

    async def generate(self, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
        """Clean states (batch, ...) by the field's own ODE from the given noise: for evaluation and reports."""
        index = torch.full((len(noise),), len(grid) - 1)
        async with self._turn:
            return await asyncio.to_thread(rollout, self._field.velocity, noise, grid, index, condition)

    async def check_health(self) -> None:
        """Async on purpose: Serve notices a hung event loop only through an async check."""


def expert_application(build_field: Callable[[], Field], threads: int, resources: Resources) -> Application:
    """The Serve application of one expert."""
    deployment = serve.deployment(name="expert", **resources.deployment_options())(ExpertService)
    return deployment.bind(build_field, threads)
