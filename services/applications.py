"""Deploying a run's Serve applications, and deleting them: handles only, no HTTP."""

import logging
from collections.abc import Mapping, Sequence

from ray import serve
from ray.serve import Application


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
