"""The rollout worker: solves the student's ODE with the weights that the request names."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from torch import Tensor

from fields.carriers import Condition, Query, SealedQueries, Weights
from fields.memory.cost import Pass
from fields.method.plan import Batch
from fields.numerics import Numerics
from fields.policy import Policy
from fields.ranks.ranks import Alone, Ranks
from services.device_faults import DeviceFaults
from services.model_ranks import ModelRanks, Options
from services.process_metrics import ProcessMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """A published version: its checksum, and where its tensors lie in the object store, with which it is verified.

    It travels inside every request. There is no separate synchronisation that could silently fail: a worker that holds
    another version fetches this one, and its answer names the version and checksum that it used.
    """

    policy_version: int
    checksum: str
    reference: ray.ObjectRef[Any]

    @staticmethod
    def put(weights: Weights) -> "PublishedWeights":
        """Hash the weights, and place them in the object store."""
        checksum = weights.checksum  # first, so that it travels with them
        return PublishedWeights(policy_version=weights.policy_version, checksum=checksum, reference=ray.put(weights))


Publication = asyncio.Future[PublishedWeights]

_HALF_LOADED = (-1, "")  # the version of a network whose loading has not come to its end: nobody asks for it


@dataclass(slots=True)
class _LoadedPolicy:
    """A policy with the version that it loaded last, in each of a worker's processes."""

    policy: Policy
    loaded: tuple[int, str] | None = None

    def rehearse(self, what: Pass, weights: PublishedWeights) -> None:
        self._load(weights)
        self.policy.rehearse(what)

    def queries(
        self, batch: Batch, conditions: Sequence[Condition], weights: PublishedWeights
    ) -> tuple[tuple[Query, ...], ...]:
        self._load(weights)
        return self.policy.queries(batch, conditions)

    def generate(
        self, noise: Tensor, grid: Tensor, condition: Condition, weights: PublishedWeights | None, guidance: float
    ) -> Tensor:
        self._load(weights)
        return self.policy.generate(noise, grid, condition, guidance)

    def velocity(self, query: Query, weights: PublishedWeights | None) -> Tensor:
        self._load(weights)
        return self.policy.answer(query)

    def _load(self, weights: PublishedWeights | None) -> None:
        version = (weights.policy_version, weights.checksum) if weights else None
        if version != self.loaded:  # a step may leave the tensors as they were; the answer names its version all the same
            self.loaded = _HALF_LOADED
            self.policy.load(ray.get(weights.reference) if weights else None)
            self.loaded = version


class RolloutWorker:
    """Rolls the student out; it has no state but the weights that it loaded last. A broken device ends it, and so does a lost
    rank of its own.

    Args:
        build_policy: loads the base, or a rank's part of it, on the device of the process that calls it.
        numerics: how it computes; the same in every process of a run.
        ranks: this process alone, or the process group of each rank that holds the base with it.
        others: the actor options of ranks 1, 2, ...
    """

    def __init__(
        self,
        build_policy: Callable[[Ranks], Policy],
        numerics: Numerics,
        ranks: Sequence[Ranks] = (Alone(),),
        others: Sequence[Options] = (),
    ):
        numerics.settle()
        self._ranks = ModelRanks(_Loading(build_policy), ranks, numerics, others)
        self._metrics = ProcessMetrics()
        self._faults = DeviceFaults(self._metrics)

    def ready(self) -> None:
        """Returns once the base is loaded."""

    def rehearse(self, what: Pass, weights: PublishedWeights) -> None:
        """Compute the largest forward of a rollout with these weights.

        Raises:
            DoesNotFit: if the device has no memory for it.
        """
        self._ranks.compute(_LoadedPolicy.rehearse, what, weights)

    def queries(
        self, batch: Batch, conditions: Sequence[Condition], weights: PublishedWeights
    ) -> SealedQueries | tuple[SealedQueries, ...]:
        """The states of each group of a batch at their query points, rolled out with these weights.

        Called for as many return values as there are groups, so that each expert fetches the groups that it is asked about
        and no others; for one value, Ray takes the value itself.
        """
        of_groups = self._faults.survive(self._ranks.compute, _LoadedPolicy.queries, batch, conditions, weights)
        self._metrics.record()
        first, *rest = map(SealedQueries.of, of_groups)
        return (first, *rest) if rest else first

    def generate(
        self, noise: Tensor, grid: Tensor, condition: Condition, weights: PublishedWeights | None, guidance: float = 1.0
    ) -> Tensor:
        """Clean states (batch, ...) from the given noise, by these weights or (None) by the bare base, guided or not."""
        return self._faults.survive(self._ranks.compute, _LoadedPolicy.generate, noise, grid, condition, weights, guidance)

    def velocity(self, query: Query, weights: PublishedWeights | None) -> Tensor:
        """The velocity (batch, ...) at the query's states, by these weights or (None) by the bare base."""
        return self._faults.survive(self._ranks.compute, _LoadedPolicy.velocity, query, weights)


@dataclass(frozen=True, slots=True)
class _Loading:
    """Builds a policy that has loaded no version, in any process."""

    build_policy: Callable[[Ranks], Policy]

    def __call__(self, ranks: Ranks) -> _LoadedPolicy:
        return _LoadedPolicy(self.build_policy(ranks))
