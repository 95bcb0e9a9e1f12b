"""An expert as a Serve application: one frozen velocity field with its own replicas, resources and health."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from ray import serve
from ray.serve import Application
from torch import Tensor

from fields.carriers import Condition, Query, Sealed, SealedQueries, Target
from fields.field import Field
from fields.method.plan import Group
from fields.method.rollout import generate
from fields.method.states import RolloutSettings
from fields.numerics import Numerics
from fields.ranks.ranks import Alone, Ranks
from services.applications import Identity
from services.model_replica import ModelReplica
from services.resources import Resources


class ExpertService(ModelReplica[Field]):
    """Answers queries with the velocities of one field. Calls are pure, so a caller may repeat one that was lost.

    Calls name the expert, as those of `SharedExpertsService` do; here it is always the same one.
    """

    async def answer(
        self, experts: Sequence[str], models: Sequence[Sequence[str]], *asked: SealedQueries | Condition
    ) -> list[Sealed[tuple[Target, ...]]]:
        """What the expert says to each query of each group, in order.

        Args:
            experts: who is asked about each group.
            models: beside the run's own whose conditions come with each group.
            asked: the queries of each group, and then these conditions, group by group.
        """
        self._require_own(*experts)
        return await self._ask(_answers, models, asked)

    async def queries(self, expert: str, group: Group, condition: Condition, settings: RolloutSettings) -> SealedQueries:
        """States of the field's own rollout, for students that learn off-policy."""
        self._require_own(expert)
        return await self._ask(_queries, group, condition, settings)

    async def generate(self, expert: str, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
        """Clean states (batch, ...) by the field's own ODE from the given noise, on the CPU: for evaluation and reports."""
        self._require_own(expert)
        return await self._ask(_generated, noise, grid, condition)

    def _require_own(self, *experts: str) -> None:
        own = self._ranks.model.name
        assert set(experts) == {own}, f"the application of expert {own!r} was asked for {experts}"


def _answers(
    field: Field, models: Sequence[Sequence[str]], asked: Sequence[SealedQueries | Condition]
) -> list[Sealed[tuple[Target, ...]]]:
    return [Sealed.of(tuple(map(field.answer, queries))) for queries in opened(models, asked)]


def opened(models: Sequence[Sequence[str]], asked: Sequence[SealedQueries | Condition]) -> Iterator[tuple[Query, ...]]:
    """The queries of each group, with what other models read of their rows; arguments as `ExpertService.answer` has them."""
    conditions = iter(asked[len(models) :])
    for sealed, own in zip(asked, models, strict=False):
        assert isinstance(sealed, SealedQueries)
        others = {model: cast(Condition, next(conditions)) for model in own}
        yield tuple(query.with_others(others) for query in sealed.sealed.open())


def _queries(field: Field, group: Group, condition: Condition, settings: RolloutSettings) -> SealedQueries:
    return SealedQueries.of(tuple(query.with_others({}) for query in field.queries(group, condition, settings)))


def _generated(field: Field, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
    return generate(field.velocity, noise, grid, condition, field.device)


def expert_application(
    build_field: Callable[[Ranks], Field],
    numerics: Numerics,
    identity: Identity,
    resources: Resources,
    ranks: Sequence[Ranks] = (Alone(),),
) -> Application:
    """The Serve application of one expert; `resources` has as many ranks."""
    deployment = serve.deployment(name="expert", **resources.deployment_options())(ExpertService)
    return deployment.bind(build_field, numerics, identity, ranks)
