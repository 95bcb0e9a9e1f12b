"""An expert as a Serve application: one frozen velocity field with its own replicas, resources and health."""

from collections.abc import Callable

import torch
from ray import serve
from ray.serve import Application
from torch import Tensor

from fields.carriers import Condition, Query, Target
from fields.field import Field
from fields.method.plan import Group
from fields.method.rollout import generate
from fields.method.solver import Solver
from services.applications import Identity
from services.process_metrics import ProcessMetrics
from services.resources import Resources
from services.turn import Turn


class ExpertService:
    """Answers queries with the velocities of one field.

    Calls are pure, so a caller may repeat one that was lost. The methods are async and compute in a thread, one call at
    a time: a busy replica still answers its health check, and a hung one is noticed.

    Args:
        build_field: loads the field, on this replica's device.
        threads: torch threads; the same in every process of a run, or sums are reordered.
        identity: what decides the answers, for whoever thinks of sharing this service.
    """

    def __init__(self, build_field: Callable[[], Field], threads: int, identity: Identity):
        torch.set_num_threads(threads)
        self._identity = identity
        self._field = build_field()
        self._metrics = ProcessMetrics()
        self._turn = Turn()

    async def answer(self, queries: tuple[Query, ...]) -> tuple[Target, ...]:
        """The field's velocities at the states of each query."""
        targets = await self._turn(lambda: tuple(self._field.answer(query) for query in queries))
        self._metrics.record_memory()
        return targets

    async def queries(
        self, group: Group, condition: Condition, seed: int, grid: Tensor, solver: Solver, both_branches: bool
    ) -> tuple[Query, ...]:
        """States of the field's own rollout, for students that learn off-policy."""
        return await self._turn(self._field.queries, group, condition, seed, grid, solver, both_branches)

    async def generate(self, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
        """Clean states (batch, ...) by the field's own ODE from the given noise, on the CPU: for evaluation and reports."""
        return await self._turn(generate, self._field.velocity, noise, grid, condition, self._field.device)

    async def identity(self) -> Identity:
        """What decides the answers."""
        return self._identity

    async def check_health(self) -> None:
        """Async on purpose: Serve notices a hung event loop only through an async check."""


def expert_application(build_field: Callable[[], Field], threads: int, identity: Identity, resources: Resources) -> Application:
    """The Serve application of one expert."""
    deployment = serve.deployment(name="expert", **resources.deployment_options())(ExpertService)
    return deployment.bind(build_field, threads, identity)
