"""The stream of targets: keeps a fixed window of future steps in flight and hands them over in plan order.

    plan.groups(step) -> encoder app -> rollout worker -> expert app of the route -> (query, target) -> learner
         rows              condition        query ref             target

Groups whose experts share an application are asked in one call, as many as fit a group's size, in the plan's order.

The window is not tuned and not raced for: step s rolls out with version max(0, s - lag), so publishing version v admits
the steps up to v + lag, and nothing else does. A slow learner publishes later, and the stream waits.
"""

import asyncio
from collections.abc import Mapping, Sequence

import ray

from actors.rollout_pool import RolloutPool
from actors.rollout_worker import PublishedWeights
from fields.carriers import Query, Target, Weights
from fields.dataset import Bucket
from fields.plan import Group, SamplePlan
from services.client import ServiceClient
from services.expert_client import ExpertClient, ask


class TargetStream:
    """Routed targets of future steps, used from the learner's event loop.

    Args:
        plan: which samples a step has.
        buckets: route -> its rows.
        encoder: client of the condition encoder.
        rollouts: the rollout workers.
        experts: route -> the expert that answers it.
        steps: the steps to stream.
        lag: of the rollouts behind the learner, in optimizer steps.
    """

    def __init__(
        self,
        *,
        plan: SamplePlan,
        buckets: Mapping[str, Bucket],
        encoder: ServiceClient,
        rollouts: RolloutPool,
        experts: Mapping[str, ExpertClient],
        steps: range,
        lag: int,
    ):
        self._plan = plan
        self._buckets = buckets
        self._encoder = encoder
        self._rollouts = rollouts
        self._experts = experts
        self._lag = lag
        self._waiting = iter(steps)
        self._next = next(self._waiting, None)
        self._in_flight: dict[int, asyncio.Task[list[tuple[Query, Target]]]] = {}

    @property
    def depth(self) -> int:
        """Steps that are asked for or ready, and not yet handed over."""
        return len(self._in_flight)

    def publish(self, weights: Weights) -> None:
        """Admit the steps that roll out with this version."""
        version = weights.policy_version
        published = PublishedWeights.put(weights)
        while self._next is not None and max(0, self._next - self._lag) == version:
            self._in_flight[self._next] = asyncio.create_task(self._examples(self._next, published))
            self._next = next(self._waiting, None)

    async def examples(self, step: int) -> list[tuple[Query, Target]]:
        """The step's queries and targets, in plan order.

        Raises:
            Exception: what a worker or an expert raised, such as ValueError for a value that is not finite.
        """
        try:
            return await self._in_flight[step]
        finally:
            del self._in_flight[step]

    async def _examples(self, step: int, weights: PublishedWeights) -> list[tuple[Query, Target]]:
        groups = self._plan.groups(step)
        calls = self._calls(groups)
        answers = await asyncio.gather(*(self._answers(call, weights) for call in calls))
        examples = {
            group: example for call, own in zip(calls, answers, strict=True) for group, example in zip(call, own, strict=True)
        }
        return [examples[group] for group in groups]

    def _calls(self, groups: Sequence[Group]) -> list[list[Group]]:
        """Which groups are asked together: decided by the plan, so that a call's composition is part of what is repeatable."""
        calls: list[list[Group]] = []
        shared: list[Group] = []
        for group in groups:
            if self._experts[group.route].name is None:
                calls.append([group])
                continue
            if sum(len(other.samples) for other in shared) + len(group.samples) > self._plan.group_size:
                calls.append(shared)
                shared = []
            shared.append(group)
        return [call for call in (*calls, shared) if call]

    async def _answers(self, groups: Sequence[Group], weights: PublishedWeights) -> list[tuple[Query, Target]]:
        rolled_out = await asyncio.gather(*(self._query(group, weights) for group in groups))
        references, queries = zip(*rolled_out, strict=True)
        targets = await ask([self._experts[group.route] for group in groups], references)
        return list(zip(queries, targets, strict=True))

    async def _query(self, group: Group, weights: PublishedWeights) -> tuple[ray.ObjectRef, Query]:
        rows = [self._buckets[group.route][sample.row] for sample in group.samples]
        condition = await self._encoder.call("encode", rows)
        reference, query = await self._rollouts.call("query", group, condition, weights)
        answered = (query.sample_ids, query.policy_version, query.checksum)
        if answered != (asked := (group.ids, weights.policy_version, weights.checksum)):
            raise RuntimeError(f"a rollout answered {answered}; asked was {asked}")
        return reference, query
