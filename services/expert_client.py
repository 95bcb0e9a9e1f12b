"""The client of an application of experts: of one, or of several that share a base. Both answer alike."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import ray
from ray.serve.handle import DeploymentResponse
from torch import Tensor

from fields.carriers import Condition, Sealed, SealedQueries, Target
from fields.memory.cost import Pass
from fields.method.plan import Group
from fields.method.states import RolloutSettings
from services.client import CallLimits, RemoteMethod, ServiceClient
from services.encoder_client import ConditionReference

QueriesReference = ray.ObjectRef[SealedQueries]  # resolved at the replica
Answer = Sequence[Sealed[tuple[Target, ...]]]


class _Answer(Protocol):
    def remote(
        self, experts: Sequence[str], models: Sequence[Sequence[str]], *asked: QueriesReference | ConditionReference
    ) -> "DeploymentResponse[Answer]": ...


class _Handle(Protocol):
    """`ExpertService` and `SharedExpertsService`, seen from elsewhere."""

    answer: _Answer
    queries: RemoteMethod[[str, Group, Condition, RolloutSettings], SealedQueries]
    rehearse: RemoteMethod[[Pass], None]
    generate: RemoteMethod[[str, Tensor, Tensor, Condition], Tensor]


class ExpertClient(ServiceClient[_Handle]):
    """Asks the experts of one application, by name.

    Args:
        shared: whether the application holds several experts, which can then be asked in one call.
        application, service, run, limits: as every client's.
    """

    def __init__(self, application: str, service: str, run: str, limits: CallLimits, shared: bool):
        super().__init__(application, service, run, limits)
        self.shared = shared

    async def answer(
        self,
        experts: Sequence[str],
        queries: Sequence[QueriesReference],
        others: Sequence[Mapping[str, ConditionReference]] | None = None,
    ) -> "ray.ObjectRef[Answer]":
        """What each expert says to each query of its group, in order; for each expert one tuple of targets. It is mapped
        here, and not opened.

        Args:
            experts: one for each group.
            queries: of each group.
            others: of each group, what models beside the run's own read, by the model's name; None for experts that have none.
        """
        others = others or [{}] * len(queries)
        asked = [*queries, *(condition for own in others for condition in own.values())]
        request = partial(self._handle.answer.remote, experts, [list(own) for own in others], *asked)
        _, reference = await self._call(request, self._limits.timeout_s)
        return reference

    async def rehearse(self, what: Pass) -> None:
        """Let a replica, which is like every other, compute the largest call.

        Raises:
            DoesNotFit: if its device has no memory for it.
        """
        await self._call(lambda: self._handle.rehearse.remote(what), answer_within_s=None)

    async def queries(
        self, expert: str, group: Group, condition: Condition, settings: RolloutSettings
    ) -> tuple[SealedQueries, QueriesReference]:
        """States of an expert's own rollout, for students that learn off-policy, and their reference."""
        return await self._call(
            lambda: self._handle.queries.remote(expert, group, condition, settings),
            answer_within_s=None,
        )

    async def generate(self, expert: str, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
        """Clean states (batch, ...) by an expert's own ODE from the given noise."""
        request = partial(self._handle.generate.remote, expert, noise, grid, condition)
        x_0, _ = await self._call(request, answer_within_s=None)
        return x_0
