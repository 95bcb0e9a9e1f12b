"""Experts that are adapters over one base as one Serve application, with one copy of the base a replica."""

from collections.abc import Callable, Sequence
from functools import partial

from ray import serve
from ray.serve import Application
from torch import Tensor

from fields.carriers import Condition, Sealed, SealedQueries, Target
from fields.method.plan import Group
from fields.method.rollout import generate
from fields.method.states import RolloutSettings
from fields.numerics import Numerics
from fields.ranks.ranks import Alone, Ranks
from fields.shared_field import SharedField
from services.applications import Identity
from services.expert import opened
from services.model_replica import ModelReplica
from services.resources import Resources


class SharedExpertsService(ModelReplica[SharedField]):
    """Answers queries to any of its experts; like `ExpertService`, pure and one call at a time."""

    async def answer(
        self, experts: Sequence[str], models: Sequence[Sequence[str]], *asked: SealedQueries | Condition
    ) -> list[Sealed[tuple[Target, ...]]]:
        """What each expert says to each query of its group, in order; mixed in one forward where they can be. Arguments as
        `ExpertService.answer` has them."""
        return await self._ask(_answers, experts, models, asked)

    async def queries(self, expert: str, group: Group, condition: Condition, settings: RolloutSettings) -> SealedQueries:
        """States of one expert's own rollout, for students that learn off-policy."""
        return await self._ask(_queries, expert, group, condition, settings)

    async def generate(self, expert: str, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
        """Clean states (batch, ...) by one expert's own ODE from the given noise: for evaluation and reports."""
        return await self._ask(_generated, expert, noise, grid, condition)


def _answers(
    field: SharedField, experts: Sequence[str], models: Sequence[Sequence[str]], asked: Sequence[SealedQueries | Condition]
) -> list[Sealed[tuple[Target, ...]]]:
    return list(map(Sealed.of, field.answer(experts, list(opened(models, asked)))))


def _queries(field: SharedField, expert: str, group: Group, condition: Condition, settings: RolloutSettings) -> SealedQueries:
    return SealedQueries.of(field.queries(expert, group, condition, settings))


def _generated(field: SharedField, expert: str, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
    return generate(partial(field.velocity, expert), noise, grid, condition, field.device)


def shared_experts_application(
    build_field: Callable[[Ranks], SharedField],
    numerics: Numerics,
    identity: Identity,
    resources: Resources,
    ranks: Sequence[Ranks] = (Alone(),),
) -> Application:
    """The Serve application of all experts that share a base; `resources` has as many ranks."""
    deployment = serve.deployment(name="experts", **resources.deployment_options())(SharedExpertsService)
    return deployment.bind(build_field, numerics, identity, ranks)
