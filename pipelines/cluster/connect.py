"""Joining a Ray cluster that runs already, and finding a run's learner on it."""

import argparse
import logging
import os
import socket
from typing import Any

import ray
from ray.util.state import list_actors

from pipelines.config.errors import ConfigError

_PROBE_S = 5.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of commands that add processes to what runs on a cluster."""
    parser.add_argument("--address", help="of the Ray cluster; default: RAY_ADDRESS, else one on this machine")
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="for a busy or growing cluster; default: refuse at once"
    )


def join(address: str | None) -> bool:
    """Whether there is a cluster: one that is named (here or in RAY_ADDRESS) must answer, one on this machine may.

    Raises:
        ConfigError: if no cluster answers at the address.
    """
    named = address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        if named != "auto":
            _require_open(named)  # Ray itself would try for minutes
        ray.init(named, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    except (OSError, ValueError) as error:
        if named == "auto":
            return False
        raise ConfigError(f"--address: no Ray cluster answers at {named!r}; it is written HOST:PORT") from error
    return True


def require_cluster(address: str | None) -> None:
    """Join a cluster.

    Raises:
        ConfigError: if there is none.
    """
    if not join(address):
        raise ConfigError("--address: no Ray cluster runs on this machine; start one (ray start --head) or name its address")


def live_actors() -> list[Any]:
    """The named actors that live on the cluster that Ray is connected to."""
    connected = ray.get_runtime_context().gcs_address  # or the state API looks for a cluster of its own
    actors: list[Any] = list_actors(connected, filters=[("state", "=", "ALIVE")], limit=10_000)
    return [actor for actor in actors if actor.name]


def learner(run: str) -> Any:
    """The learner of a run, whichever driver started it.

    Raises:
        ConfigError: if no learner of the run lives, or more than one.
    """
    named = [actor for actor in live_actors() if actor.name == f"{run}/learner"]
    if len(named) != 1:
        raise ConfigError(f"{len(named) or 'no'} learner{'s' * (len(named) > 1)} of run {run!r} on this cluster")
    return ray.get_actor(named[0].name, named[0].ray_namespace)


def _require_open(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT, ValueError if it is not written so."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    socket.create_connection((host, int(port)), timeout=_PROBE_S).close()
