"""What the learner actor is made of on a cluster; everything is built in the actor's own process."""

from functools import partial
from math import inf
from typing import Any

import ray

from actors.curriculum import Curriculum
from actors.examiner import Examiner
from actors.hang_limit import HangLimit
from actors.learner_rank import LearnerRank
from actors.mirror import Mirror
from actors.pool_sizing import PoolSizing
from actors.rank_group import RankGroup, RankHere
from actors.rollout_pool import RolloutPool
from actors.rollout_worker import RolloutWorker
from actors.schedule import Schedule
from actors.stream import TargetStream
from fields.distiller import Distiller
from fields.ranks.ordered import OrderedRanks
from fields.ranks.process_group import ProcessGroup
from fields.ranks.ranks import Alone, Ranks
from pipelines.cluster.deployment import RunServices
from pipelines.cluster.reserve import Reservation
from pipelines.config.recipe import recipe
from pipelines.config.sharing import shares_student
from pipelines.data.scene import prepare_missing
from pipelines.parts.asked import reads_empty
from pipelines.parts.device import device, sharing_ranks
from pipelines.parts.run_parts import RunParts
from pipelines.parts.traced import traced

_ALONE_S = 1800.0
_EXCHANGE_S = 600.0  # ranks wait so long for one that computes

Actor = Any  # a handle: the types that Ray gives know only methods marked by `ray.method`


class ClusterLearnerParts:
    """The `LearnerParts` of a run whose rollout workers are actors and whose experts are services.

    Args:
        parts: of the run.
        reservation: what is reserved for its actors; None starts the workers where there is room.
    """

    def __init__(self, parts: RunParts, reservation: Reservation | None):
        self._parts = parts
        self._config = parts.config
        self._reservation = reservation
        self.run = parts.config.run.name
        self.numerics = parts.config.numerics.build()
        self.loggers = parts.config.run.loggers
        self.recipe = recipe(parts.config)
        self.largest = parts.largest_pass
        alone = parts.config.learner.ranks == 1  # a learner that ends itself remembers no limit, so its own is a long one
        self._update_limit = HangLimit(max(parts.config.run.watchdog_s, _ALONE_S if alone else 0.0), first_s=inf)

    def schedule(self, start: int) -> Schedule:
        """When the run does what, from step `start` on."""
        return self._parts.schedule(start)

    def ranks(self) -> RankGroup:
        """The processes that hold the student, started: the learner's own for one, actors for more."""
        size, reduction = self._config.learner.ranks, self._parts.objective.over_queries
        if size == 1:
            ranks = [RankHere(LearnerRank(self._distiller, Alone(), self.numerics, self.run))]
        else:
            ranks = [self._start_rank(rank, size) for rank in range(size)]
        return RankGroup(ranks, reduction, self._config.learner.shard, self._update_limit)

    def _start_rank(self, rank: int, size: int) -> Actor:
        """A rank in its reserved bundle. It isn't restarted by itself: the others would not know."""
        learner = self._config.learner
        options = {"num_cpus": learner.num_cpus, "num_gpus": learner.num_gpus}
        place = self._reservation.place(1 + rank) if self._reservation else {}
        actor = ray.remote(LearnerRank).options(name=f"{self.run}/learner-rank-{rank}", **options, **place)
        return actor.remote(self._distiller, self._process_group(rank, size), self.numerics, self.run)

    def _process_group(self, rank: int, size: int) -> ProcessGroup:
        """How this rank computes with the others."""
        device = self._parts.learner_device
        if shares_student(self._config):
            from fields.ranks.sharded import ShardedRanks  # and FSDP2 with it, which takes a second to import

            return ShardedRanks(rank, size, device, _EXCHANGE_S)
        return OrderedRanks(rank, size, device, _EXCHANGE_S, self._config.learner.shard)

    def _distiller(self, ranks: Ranks) -> Distiller:
        prepare_missing(self._config)  # this may be another node than the driver's
        who = "learner" if ranks.size == 1 else f"learner-rank-{ranks.rank}"
        return traced(self._parts, who, len(self._config.routes), self._parts.distiller, ranks)

    def mirror(self) -> Mirror | None:
        """Where the run's checkpoints are copied to, if anywhere."""
        return self._parts.mirror

    def rollouts(self) -> RolloutPool:
        """The rollout workers, started."""
        return RolloutPool(self._start_worker, self._config.rollout.workers, self.run, self._config.run.watchdog_s)

    def sizing(self, rollouts: RolloutPool) -> PoolSizing:
        """How many workers there should be, as the configuration bounds them."""
        return PoolSizing(rollouts, self._config.rollout.workers, self._config.rollout.most_workers, self.run)

    def _start_worker(self, number: int) -> Actor:
        """A rollout worker: one of those that the run began with in its reserved bundle, one that came later where there is
        room."""
        rollout = self._config.rollout
        place: dict[str, Any] = {"label_selector": dict(rollout.node_labels)}
        if self._reservation and number < rollout.workers:
            place = self._reservation.place(1 + self._config.learner.rank_actors + number)
        options = {"num_cpus": rollout.num_cpus, "num_gpus": rollout.num_gpus, **place}
        worker = ray.remote(RolloutWorker).options(name=f"{self.run}/rollout-{number}", max_restarts=-1, **options)
        ranks = sharing_ranks(rollout.ranks, device(rollout.num_gpus))
        forwards = max(1, rollout.steps * len(self._config.routes) // rollout.workers)
        build = partial(traced, self._parts, f"rollout-{number}", forwards, self._parts.policy)
        return worker.remote(build, self.numerics, ranks, [options] * (rollout.ranks - 1))

    def stream(self, rollouts: RolloutPool, steps: range) -> TargetStream:
        """The stream of these steps' targets, connected to the services."""
        return TargetStream(
            curriculum=curriculum(self._parts),
            rollouts=rollouts,
            steps=steps,
            lag=self._parts.lag,
        )

    def examiner(self, rollouts: RolloutPool) -> Examiner:
        """Who examines students and experts, connected to the services."""
        parts = self._parts
        return Examiner(
            exam=parts.evaluation,
            family=parts.family,
            grid=parts.exam_grid,
            encoders=RunServices(parts).encoders(),
            rollouts=rollouts,
        )


def curriculum(parts: RunParts) -> Curriculum:
    """What a run teaches; built where it is used, once the services are deployed."""
    state = parts.config.state
    services = RunServices(parts)
    return Curriculum(
        plan=parts.plan,
        buckets=parts.buckets,
        encoders=services.encoders(),
        experts=services.expert_clients(),
        teaching=parts.teaching,
        expert_rollouts=parts.rollouts if state.expert_rolls_out else None,
        reads_targets=state.reads_targets,
        reads_empty=frozenset(route for route in parts.config.routes if reads_empty(parts, route)),
        reads=parts.experts.reads,
    )
