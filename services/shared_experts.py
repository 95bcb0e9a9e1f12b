"""Experts that are adapters over one base as one Serve application, with one copy of the base a replica."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from ray import serve
from ray.serve import Application
from torch import Tensor

from fields.carriers import Condition, Sealed, SealedQueries, Target
from fields.memory.cost import Pass
from fields.method.plan import Group
from fields.method.rollout import generate
from fields.method.states import RolloutSettings
from fields.numerics import Numerics
from fields.shared_field import SharedField
from services.applications import Identity
from services.replica import Replica
from services.resources import Resources


class SharedExpertsService(Replica):
    """Answers queries to any of its experts; like `ExpertService`, pure and one call at a time.

    Args:
        build_field: loads the base and the adapters, on this replica's device.
        numerics: how it computes; the same in every process of a run.
        identity: what decides the answers, for whoever thinks of sharing this service.
    """

    def __init__(self, build_field: Callable[[], SharedField], numerics: Numerics, identity: Identity):
        super().__init__(numerics, identity)
        self._field = build_field()

    @property
    def device(self) -> torch.device:
        return self._field.device

    async def answer(self, experts: Sequence[str], *queries: SealedQueries) -> list[Sealed[tuple[Target, ...]]]:
        """What each expert says to each query of its group, in order; mixed in one forward where they can be."""
        return await self._compute(self._answers, experts, queries)

    def _answers(self, experts: Sequence[str], queries: Sequence[SealedQueries]) -> list[Sealed[tuple[Target, ...]]]:
        return list(map(Sealed.of, self._field.answer(experts, [asked.sealed.open() for asked in queries])))

    async def queries(self, expert: str, group: Group, condition: Condition, settings: RolloutSettings) -> SealedQueries:
        """States of one expert's own rollout, for students that learn off-policy."""
        return await self._compute(lambda: SealedQueries.of(self._field.queries(expert, group, condition, settings)))

    async def rehearse(self, what: Pass) -> None:
        """Compute the largest call once; raises `DoesNotFit`."""
        await self._rehearse(self._field.rehearse, what)

    async def generate(self, expert: str, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
        """Clean states (batch, ...) by one expert's own ODE from the given noise: for evaluation and reports."""
        velocity = partial(self._field.velocity, expert)
        return await self._compute(generate, velocity, noise, grid, condition, self._field.device)


def shared_experts_application(
    build_field: Callable[[], SharedField], numerics: Numerics, identity: Identity, resources: Resources
) -> Application:
    """The Serve application of all experts that share a base."""
    deployment = serve.deployment(name="experts", **resources.deployment_options())(SharedExpertsService)
    return deployment.bind(build_field, numerics, identity)
