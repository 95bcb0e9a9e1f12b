"""Deploying a run's Serve applications, and deleting them: handles only, no HTTP."""

import logging
import time
from collections.abc import Mapping, Sequence

from ray import serve
from ray.serve import Application

_DELETION_S = 60.0
_POLL_S = 0.2


def deploy(applications: Mapping[str, Application]) -> None:
    """Start Serve without a proxy and the applications side by side; returns when all of them run.

    Raises:
        RuntimeError: if an application fails to start; Serve's message names it.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    serve.run_many([serve.RunTarget(target=app, name=name, route_prefix=None) for name, app in applications.items()])


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
