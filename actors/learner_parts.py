"""What a learner is made of."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from actors.examiner import Examiner
from actors.mirror import Mirror
from actors.pool_sizing import PoolSizing
from actors.rank_group import RankGroup
from actors.rollout_pool import RolloutPool
from actors.schedule import Schedule
from actors.stream import TargetStream
from fields.memory.cost import Pass
from fields.numerics import Numerics


class LearnerParts(Protocol):
    """What a learner is made of; each part is built in the learner's own process."""

    run: str
    numerics: Numerics
    loggers: Sequence[str]
    largest: Pass
    recipe: Mapping[str, Any]

    def schedule(self, start: int) -> Schedule:
        """When the run does what, from step `start` on."""
        ...

    def ranks(self) -> RankGroup:
        """The processes that hold the student, started."""
        ...

    def mirror(self) -> Mirror | None:
        """Where checkpoints are copied to, if anywhere."""
        ...

    def rollouts(self) -> RolloutPool:
        """The rollout workers, started."""
        ...

    def sizing(self, rollouts: RolloutPool) -> PoolSizing:
        """How many workers there should be."""
        ...

    def stream(self, rollouts: RolloutPool, steps: range) -> TargetStream:
        """The stream of these steps' targets; called inside the actor's event loop, once the services are deployed."""
        ...

    def examiner(self, rollouts: RolloutPool) -> Examiner:
        """Who examines students and experts; called as `stream` is."""
        ...
