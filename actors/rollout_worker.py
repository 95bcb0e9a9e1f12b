"""The rollout worker: solves the student's ODE with the weights that the request names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from torch import Tensor

from fields.carriers import Condition, Query, SealedQueries, Weights
from fields.memory.cost import Pass
from fields.method.plan import Group
from fields.numerics import Numerics
from fields.policy import Policy
from services.device_faults import DeviceFaults
from services.process_metrics import ProcessMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """A published version: its checksum, and where its tensors lie in the object store.

    It travels inside every request. There is no separate synchronisation that could silently fail: a worker that holds
    another version fetches this one, and its answer names the version and checksum that it used.
    """

    policy_version: int
    checksum: str
    reference: ray.ObjectRef[Any]

    @staticmethod
    def put(weights: Weights) -> "PublishedWeights":
        """Place the weights in the object store."""
        return PublishedWeights(policy_version=weights.policy_version, checksum=weights.checksum, reference=ray.put(weights))


_HALF_LOADED = (-1, "")  # the version of a network whose loading has not come to its end: nobody asks for it


class RolloutWorker:
    """Rolls the student out; it has no state but the weights that it loaded last. A broken device ends it.

    Args:
        build_policy: loads the base, on this worker's device.
        numerics: how it computes; the same in every process of a run.
    """

    def __init__(self, build_policy: Callable[[], Policy], numerics: Numerics):
        numerics.settle()
        self._policy = build_policy()
        self._metrics = ProcessMetrics()
        self._faults = DeviceFaults(self._metrics)
        self._loaded: tuple[int, str] | None = None

    def ready(self) -> None:
        """Returns once the base is loaded."""

    def rehearse(self, what: Pass, weights: PublishedWeights) -> None:
        """Compute the largest forward of a rollout with these weights.

        Raises:
            DoesNotFit: if the device has no memory for it.
        """
        self._load(weights)
        self._policy.rehearse(what)

    def queries(self, group: Group, condition: Condition, weights: PublishedWeights) -> SealedQueries:
        """The group's states at their query points, rolled out with these weights."""

        def rolled_out() -> tuple[Query, ...]:
            self._load(weights)
            return self._policy.queries(group, condition)

        queries = self._faults.survive(rolled_out)
        self._metrics.record_memory()
        return SealedQueries.of(queries)

    def generate(
        self, noise: Tensor, grid: Tensor, condition: Condition, weights: PublishedWeights | None, guidance: float = 1.0
    ) -> Tensor:
        """Clean states (batch, ...) from the given noise, by these weights or (None) by the bare base, guided or not."""

        def generated() -> Tensor:
            self._load(weights)
            return self._policy.generate(noise, grid, condition, guidance)

        return self._faults.survive(generated)

    def velocity(self, query: Query, weights: PublishedWeights | None) -> Tensor:
        """The velocity (batch, ...) at the query's states, by these weights or (None) by the bare base."""

        def answered() -> Tensor:
            self._load(weights)
            return self._policy.answer(query)

        return self._faults.survive(answered)

    def _load(self, weights: PublishedWeights | None) -> None:
        version = (weights.policy_version, weights.checksum) if weights else None
        if version != self._loaded:  # a step may leave the tensors as they were; the answer names its version all the same
            self._loaded = _HALF_LOADED
            self._policy.load(ray.get(weights.reference) if weights else None)
            self._loaded = version
