"""Calls to a Serve application: bounded, timed, and repeated when a replica is lost. The clients of the single services
say what can be asked; all of them call through here."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, ParamSpec, Protocol, TypeVar, cast

import ray
from ray import serve
from ray.serve.handle import DeploymentResponse

from services.ray_internals import taken
from services.repeated_calls import LOST_CALL_ERRORS, RepeatedCalls

P = ParamSpec("P")
A = TypeVar("A")
Handle = TypeVar("Handle")


class RemoteMethod(Protocol[P, A]):
    """A method of a service, as its handle offers it."""

    def remote(self, *arguments: P.args, **keywords: P.kwargs) -> "DeploymentResponse[A]":
        """Send the call; the response holds the method's result."""
        ...


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


class ServiceClient(Generic[Handle]):
    """A client of one Serve application, used from one event loop.

    Args:
        application: name of the running application.
        service: what the metrics call it.
        run: name of the run, for the metrics.
        limits: how it calls.
    """

    def __init__(self, application: str, service: str, run: str, limits: CallLimits):
        self._handle = cast(Handle, serve.get_app_handle(application))
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._calls = RepeatedCalls("field_call", {"run": run, "service": service}, limits.patience_s)

    async def _call(
        self, request: Callable[[], "DeploymentResponse[A]"], answer_within_s: float | None
    ) -> "tuple[A, ray.ObjectRef[A]]":
        """The answer to a request, and its reference: to pass it on without the bytes.

        Args:
            request: sends the call; ObjectRefs among its arguments are resolved at the replica.
            answer_within_s: of one attempt. None for a rollout, which on a large model takes many minutes: once a replica
                has it, only the replica's end ends the wait, which Ray and Serve's health checks notice.

        Raises:
            TimeoutError, RayActorError, ...: one of `LOST_CALL_ERRORS`, once patience is over.
            Exception: whatever the service raised.
        """

        async def attempt() -> "tuple[A, ray.ObjectRef[A]]":
            response = request()
            try:
                with self._calls.timed():
                    if answer_within_s is None:
                        await asyncio.wait_for(taken(response), self._limits.timeout_s)
                    return await asyncio.wait_for(response, answer_within_s), await taken(response)
            except (*LOST_CALL_ERRORS, asyncio.CancelledError):
                response.cancel()  # neither a timeout nor the end of who waited stops the replica
                raise

        async with self._slots:
            return await self._calls.answer(attempt)
