"""Starting Serve, deploying applications, and deleting them."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray import serve
from ray.serve import Application

_DELETION_S = 60.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where Serve's proxy listens, on the head node."""

    host: str
    port: int


def start(http: HttpAddress | None = None) -> None:
    """Start Serve unless it runs; with `http` it gets a proxy, otherwise there are handles only.

    Raises:
        RuntimeError: if Serve runs already without a proxy; it cannot get one afterwards.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly" if http else "Disabled",
        http_options={"host": http.host, "port": http.port} if http else None,
        logging_config={"log_level": "WARNING"},
    )
    if http and not serve.status().proxies:
        raise RuntimeError("Serve runs on this cluster without an HTTP proxy, and cannot get one while it runs")


def deploy(applications: Mapping[str, Application], route_prefix: str | None = None) -> None:
    """Deploy applications side by side; returns when all of them run. With `route_prefix` they answer HTTP there.

    Raises:
        RuntimeError: if an application fails to start; Serve's message names it.
    """
    start()
    serve.run_many([serve.RunTarget(target=app, name=name, route_prefix=route_prefix) for name, app in applications.items()])


def delete(names: Sequence[str]) -> None:
    """Delete applications, all at once; those that are already gone are passed over."""
    running = serve.status().applications
    for name in names:
        if name in running:
            serve.delete(name, _blocking=False)


def delete_and_wait(names: Sequence[str]) -> None:
    """Delete applications and return when they are gone: an application that is being deleted cannot be deployed anew.

    Raises:
        TimeoutError: after a minute; the line names those that are left.
    """
    delete(names)
    deadline = time.monotonic() + _DELETION_S
    while left := [name for name in names if name in serve.status().applications]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Serve still deletes {', '.join(left)}")
        time.sleep(_POLL_S)
