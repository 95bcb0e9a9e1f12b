"""All that this project takes from Ray's insides, read in Ray 2.60.0.

A test fails when another Ray is installed, so that somebody compares these names with it. Serve, which takes a second, is only
imported by whom it concerns.
"""

# pyright: reportPrivateUsage=false

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray._common import tls_utils
from ray._private import ray_constants
from ray._private.authentication import authentication_token_setup
from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportAttributeAccessIssue]  # its stub leaves it out

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentResponse

READ_IN = "2.60.0"
LOOPBACK = "127.0.0.1"

_EXPORT_TAKES_S = 1.0


@contextmanager
def on_loopback() -> Generator[None]:
    """Within it, `ray.init` starts a cluster that listens on this machine's loopback address alone, or joins one that does.

    Ray does so on Windows and macOS; elsewhere it has no setting for it, and replaces 127.0.0.1 by the machine's address.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def present_token() -> None:
    """Let this process present the token that Ray made for this user, which clusters ask for that this user starts.

    Ray does so where it looks for a cluster by itself, and not for an address, unless RAY_AUTH_MODE says so.
    """
    known = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    if known and authentication_token_setup.AUTH_MODE_ENV_VAR not in os.environ:
        authentication_token_setup._enable_token_auth()


def listen_as_the_node_does() -> None:
    """Let the replica of this process listen on the loopback address alone, where its node does; called before it is ready.

    Serve opens a port of every replica on all interfaces, whatever the node's address is.
    """
    if ray.util.get_node_ip_address() != LOOPBACK:
        return
    from ray.serve._private import replica

    def add_port(server: Any, address: str) -> int:
        return tls_utils.add_port_to_grpc_server(server, address.replace("[::]", LOOPBACK))

    replica.add_port_to_grpc_server = add_port  # pyright: ignore[reportPrivateImportUsage]


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
