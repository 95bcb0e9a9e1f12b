"""All that this project takes from Ray's insides, read in Ray 2.60.0.

A test fails when another Ray is installed, so that somebody compares these names with it. Serve, which takes a second, is only
imported by whom it concerns.
"""

# pyright: reportPrivateUsage=false

from typing import TYPE_CHECKING, Any

import ray
from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]  # its stub leaves it out

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentResponse

READ_IN = "2.60.0"

_EXPORT_TAKES_S = 1.0


def metrics_export_s() -> float:
    """Seconds after which what a metric counts now has left this process; one that ends before takes the count with it."""
    return Config.metrics_report_interval_ms() / 1000 + _EXPORT_TAKES_S


async def taken(response: "DeploymentResponse[Any]") -> "ray.ObjectRef[Any]":
    """The answer's reference, which it has from when a replica has taken the call."""
    return await response._to_object_ref()


def http_listener() -> tuple[str, int]:
    """Host and port at which Serve's proxy listens; the public API doesn't say."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None
    return client.http_config.host or "", client.http_config.port


def set_replicas(application: str, deployment: str, count: int) -> None:
    """Ask Serve's controller for so many replicas; those that stay go on.

    The public way is HTTP to the dashboard, and clusters of comparisons have no dashboard.

    Raises:
        ValueError: if Serve scales the application by itself.
    """
    from ray.serve._private.common import DeploymentID
    from ray.serve._private.exceptions import ExternalScalerDisabledError
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None
    try:
        ray.get(client._controller.update_deployment_replicas.remote(DeploymentID(deployment, application), count))
    except ExternalScalerDisabledError as error:
        raise ValueError(f"{application} is scaled by Serve itself") from error
