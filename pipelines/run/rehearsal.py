"""A run's first minute: every kind of process computes its largest group once, so what doesn't fit is said before any exam."""

import asyncio
from functools import partial
from typing import Any

from ray import ObjectRef
from ray.exceptions import RayTaskError

from fields.memory.rehearsal import DoesNotFit
from pipelines.cluster.deployment import RunServices
from pipelines.config.run import SHARED
from pipelines.parts.run_parts import RunParts
from pipelines.run.learner_parts import Actor
from pipelines.run.too_large import LEARNER, ROLLOUT, too_large


async def rehearse(parts: RunParts, learner: Actor) -> None:
    """Let the learner, the rollout workers and a replica of each application of experts compute their largest group.

    Raises:
        ConfigError: which of them has no memory for it, and the key to lower.
    """
    config, services = parts.config, RunServices(parts)
    calls = {LEARNER: learner.rehearse.remote(), ROLLOUT: learner.rehearse_rollouts.remote()}
    for service in config.expert_services:
        one = next(name for name in config.experts if config.service_of(name) == service)
        who = "the shared experts' replica" if service == SHARED else f"the replica of expert {service}"
        calls[who] = learner.rehearse_expert.remote(partial(services.expert_client, one))
    await asyncio.gather(*(_rehearsed(who, call) for who, call in calls.items()))


async def _rehearsed(who: str, call: "ObjectRef[Any]") -> None:
    try:
        await asyncio.wrap_future(call.future())
    except RayTaskError as error:
        if isinstance(error.cause, DoesNotFit):
            raise too_large(who, error.cause) from error
        raise
