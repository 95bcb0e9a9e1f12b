"""Calls to a service: bounded, timed, and repeated when a replica is lost.

Every call of this system is pure, so repeating one is safe. What the service itself raises (bad input, a velocity that
is not finite) is not repeated: it would be raised again. Nor is a rollout that takes long: once a replica has it, only
the replica's end ends the wait, which Ray and Serve's health checks notice.
"""

import asyncio
from dataclasses import dataclass
from math import inf
from typing import Any

from ray import serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentResponse
from ray.util.metrics import Counter, Histogram

LOST = (RayActorError, ObjectLostError, BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError, TimeoutError)

_ROLLOUTS = ("generate", "queries")  # many forwards, on a large model many minutes
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_LATENCY_BOUNDARIES_S = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """How a client calls.

    Attributes:
        concurrency: most calls in flight; Serve's own queue limit rejects bursts, so the client waits instead.
        timeout_s: of one attempt, or of a rollout until a replica takes it; without a replica a call would wait for ever.
        patience_s: this long after a call was first lost, the last error is raised.
    """

    concurrency: int = 16
    timeout_s: float = 120.0
    patience_s: float = 600.0


class ServiceClient:
    """A client of one Serve application, used from one event loop.

    Args:
        application: name of the running application.
        service: what the metrics call it.
        run: name of the run, for the metrics.
        limits: how it calls.
    """

    def __init__(self, application: str, service: str, run: str, limits: CallLimits):
        self._handle = serve.get_app_handle(application)
        self._application = application
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._tags = {"run": run, "service": service}
        self._latency = Histogram(
            "field_call_seconds", "Time of a successful call.", boundaries=_LATENCY_BOUNDARIES_S, tag_keys=("run", "service")
        )
        self._retries = Counter("field_call_retries", "Calls repeated after a lost one.", ("run", "service"))

    async def call(self, method: str, *arguments: Any) -> Any:
        """The answer of `method(*arguments)`; ObjectRefs among the arguments are resolved at the replica.

        Raises:
            TimeoutError, RayActorError, ...: one of `LOST`, once patience is over.
            Exception: whatever the service raised.
        """
        async with self._slots:
            loop = asyncio.get_running_loop()
            deadline, pause = inf, _FIRST_PAUSE_S
            while True:
                started = loop.time()
                response = getattr(self._handle, method).remote(*arguments)
                try:
                    answer = await self._answer(response, method)
                except LOST:
                    response.cancel()  # a timeout alone doesn't stop the replica
                    deadline = min(deadline, loop.time() + self._limits.patience_s)
                    if loop.time() + pause > deadline:
                        raise
                    self._retries.inc(tags=self._tags)
                except asyncio.CancelledError:
                    response.cancel()  # whoever waited is gone
                    raise
                else:
                    self._latency.observe(loop.time() - started, tags=self._tags)
                    return answer
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _answer(self, response: DeploymentResponse, method: str) -> Any:
        if method not in _ROLLOUTS:
            return await asyncio.wait_for(response, self._limits.timeout_s)
        await asyncio.wait_for(response._to_object_ref(), self._limits.timeout_s)  # returns when a replica has taken it
        return await response
