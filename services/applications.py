"""Deploying a run's Serve applications, and deleting them: handles only, no HTTP."""

from collections.abc import Mapping

from ray import serve
from ray.serve import Application


def deploy(applications: Mapping[str, Application]) -> None:
    """Start Serve without a proxy and the applications side by side; returns when all of them run.

    Raises:
        RuntimeError: if an application fails to start; Serve's message names it.
    """
    serve.start(proxy_location="Disabled")
    targets = [serve.RunTarget(target=app, name=name, route_prefix=None) for name, app in applications.items()]
    serve.run_many(targets)


def delete(names: list[str]) -> None:
    """Delete applications; those that are already gone are passed over."""
    running = serve.status().applications
    for name in names:
        if name in running:
            serve.delete(name)
