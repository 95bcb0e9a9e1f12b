"""The learner's process: started, and ended with all that is its own."""

from contextlib import suppress

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

from actors.learner import Learner
from pipelines.cluster.demands import RunDemands
from pipelines.cluster.reserve import Reservation
from pipelines.parts.run_parts import RunParts
from pipelines.run.learner_parts import Actor, ClusterLearnerParts
from pipelines.run.origin import Origin

_END_S = 10.0


def start_learner(parts: RunParts, origin: Origin, reservation: Reservation | None = None) -> Actor:
    """Start the learner, and by it its ranks and the rollout workers, in what is reserved for them; services are connected to
    when training begins."""
    config = parts.config
    demand = RunDemands.of(config).learner
    options = {"num_cpus": demand.num_cpus, "num_gpus": demand.num_gpus}
    place = reservation.place(0) if reservation else {}
    learner = ray.remote(Learner).options(name=f"{config.run.name}/learner", **options, **place)
    resume = origin.checkpoint.absolute() if origin.checkpoint else None
    return learner.remote(ClusterLearnerParts(parts, reservation), config.folder.absolute(), origin.step, resume)


def end(learner: Actor) -> None:
    """End the learner, its ranks and the rollout workers, whatever they are doing."""
    with suppress(RayError):  # it died, or its loop hangs: they go with it
        ray.get(learner.end_actors.remote(), timeout=_END_S)
    ray.kill(learner)


def remaining_actors(run: str) -> list[str]:
    """The names of a run's actors that have not ended; nobody else can have them until then."""
    return [name for name in list_named_actors() if name.startswith(f"{run}/")]
