"""Starting Serve, deploying applications, and deleting them."""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve import Application

from services.ray_internals import http_listener, set_replicas

Identity = Mapping[str, Any]  # plain values

_ANSWER_S = 60.0
_DELETION_S = 120.0
_POLL_S = 0.2
_DEPLOYED = ("RUNNING", "DEPLOYING", "UNHEALTHY")


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where Serve's proxy listens, on the head node."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def start(http: HttpAddress | None = None) -> None:
    """Start Serve unless it runs; with `http` it gets a proxy, otherwise there are handles only.

    Raises:
        RuntimeError: if Serve runs already without a proxy, or listens elsewhere; it cannot change that while it runs.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly" if http else "Disabled",
        http_options={"host": http.host, "port": http.port} if http else None,
        logging_config={"log_level": "WARNING"},
    )
    if http is None:
        return
    if not serve.status().proxies:
        raise RuntimeError("Serve runs on this cluster without an HTTP proxy, and cannot get one while it runs")
    listening = HttpAddress(*http_listener())
    if listening != http:
        raise RuntimeError(f"Serve listens at {listening} on this cluster already, not at {http}")


def deploy(applications: Mapping[str, Application], route_prefix: str | None = None, autoscaled: Collection[str] = ()) -> None:
    """Deploy applications side by side; returns when all of them run. With `route_prefix` they answer HTTP there.

    Those that Serve scales by itself are named; the others can be scaled by `scale`.

    Raises:
        RuntimeError: if an application fails to start; Serve's message names it.
    """
    start()
    targets = [
        serve.RunTarget(target=app, name=name, route_prefix=route_prefix, external_scaler_enabled=name not in autoscaled)
        for name, app in applications.items()
    ]
    serve.run_many(targets)


def listed() -> dict[str, str]:
    """Every application with its status, as Serve calls it: RUNNING, DEPLOYING, DEPLOY_FAILED, UNHEALTHY, DELETING."""
    return {name: application.status.value for name, application in serve.status().applications.items()}


def settle(names: Collection[str], timeout_s: float) -> None:
    """Returns once none of these applications is just being deployed, or put together again by a controller that was lost, or
    after so many seconds."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        standing = listed()
        if not any(standing.get(name) == "DEPLOYING" for name in names):
            return
        time.sleep(_POLL_S)


def identity(name: str) -> Identity:
    """What decides the answers of an application, as it was deployed."""
    return serve.get_app_handle(name).identity.remote().result(timeout_s=_ANSWER_S)


def replicas(name: str) -> int:
    """The replicas of an application that run."""
    application = serve.status().applications.get(name)
    deployments = application.deployments.values() if application else ()
    states = [count for deployment in deployments for count in deployment.replica_states.items()]
    return sum(count for state, count in states if state == "RUNNING")  # a string, or an enumeration of strings


def scale(name: str, count: int, timeout_s: float) -> None:
    """Give an application so many replicas; the ones that it keeps go on. Returns when they run.

    One whose replicas are just coming, going or being replaced can be given another number too.

    Raises:
        ValueError: if Serve scales the application by itself, or it was not deployed.
        TimeoutError: if they don't run in time; they may still come.
    """
    if listed().get(name) not in _DEPLOYED:
        raise ValueError(f"{name} does not run")
    (deployment,) = serve.status().applications[name].deployments
    set_replicas(name, deployment, count)
    deadline = time.monotonic() + timeout_s
    while (now := replicas(name)) != count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{now} of {count} replicas of {name} run after {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def delete(names: Sequence[str]) -> None:
    """Delete applications, all at once; those that are already gone are passed over."""
    running = serve.status().applications
    for name in names:
        if name in running:
            serve.delete(name, _blocking=False)


def delete_and_wait(names: Sequence[str]) -> None:
    """Delete applications and return when they are gone: an application that is being deleted cannot be deployed anew.

    Raises:
        TimeoutError: after two minutes; the line names those that are left.
    """
    delete(names)
    deadline = time.monotonic() + _DELETION_S
    while left := [name for name in names if name in serve.status().applications]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Serve still deletes {', '.join(left)}")
        time.sleep(_POLL_S)
