"""An expert as a Serve application: one frozen velocity field with its own replicas, resources and health."""

from collections.abc import Callable, Sequence

import torch
from ray import serve
from ray.serve import Application
from torch import Tensor

from fields.carriers import Condition, Sealed, SealedQueries, Target
from fields.field import Field
from fields.memory.cost import Pass
from fields.method.plan import Group
from fields.method.rollout import generate
from fields.method.states import RolloutSettings
from fields.numerics import Numerics
from services.applications import Identity
from services.replica import Replica
from services.resources import Resources


class ExpertService(Replica):
    """Answers queries with the velocities of one field. Calls are pure, so a caller may repeat one that was lost.

    Calls name the expert, as those of `SharedExpertsService` do; here it is always the same one.

    Args:
        build_field: loads the field, on this replica's device.
        numerics: how it computes; the same in every process of a run.
        identity: what decides the answers, for whoever thinks of sharing this service.
    """

    def __init__(self, build_field: Callable[[], Field], numerics: Numerics, identity: Identity):
        super().__init__(numerics, identity)
        self._field = build_field()

    @property
    def device(self) -> torch.device:
        return self._field.device

    async def answer(self, experts: Sequence[str], *queries: SealedQueries) -> list[Sealed[tuple[Target, ...]]]:
        """What the expert says to each query of each group, in order."""
        self._require_own(*experts)
        return await self._compute(lambda: [self._answer(asked) for asked in queries])

    def _answer(self, asked: SealedQueries) -> Sealed[tuple[Target, ...]]:
        return Sealed.of(tuple(self._field.answer(query) for query in asked.sealed.open()))

    async def queries(self, expert: str, group: Group, condition: Condition, settings: RolloutSettings) -> SealedQueries:
        """States of the field's own rollout, for students that learn off-policy."""
        self._require_own(expert)
        return await self._compute(lambda: SealedQueries.of(self._field.queries(group, condition, settings)))

    async def rehearse(self, what: Pass) -> None:
        """Compute the largest call once; raises `DoesNotFit`."""
        await self._rehearse(self._field.rehearse, what)

    async def generate(self, expert: str, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
        """Clean states (batch, ...) by the field's own ODE from the given noise, on the CPU: for evaluation and reports."""
        self._require_own(expert)
        return await self._compute(generate, self._field.velocity, noise, grid, condition, self._field.device)

    def _require_own(self, *experts: str) -> None:
        assert set(experts) == {self._field.name}, f"the application of expert {self._field.name!r} was asked for {experts}"


def expert_application(
    build_field: Callable[[], Field], numerics: Numerics, identity: Identity, resources: Resources
) -> Application:
    """The Serve application of one expert."""
    deployment = serve.deployment(name="expert", **resources.deployment_options())(ExpertService)
    return deployment.bind(build_field, numerics, identity)
