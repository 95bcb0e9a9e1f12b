"""The one way to Ray: joining a cluster that runs, or starting one, and finding a run's learner on it."""

import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.state import list_actors

from pipelines.cluster.address import named
from pipelines.cluster.waiting import waiting_for
from pipelines.config.errors import ConfigError
from pipelines.run_folder.address import recorded_address
from services.ray_internals import LOOPBACK, on_loopback, present_token

Say = Callable[[str], None]
_PROBE_S = 5.0
_POLL_S = 1.0
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


def join(address: str | None, say: Say, wait: float = 0.0, run: Path | None = None) -> bool:
    """Whether there is a cluster: one that is named must answer within `wait` seconds, one on this machine may; of several
    there that of the run whose folder is given is taken, else the one that started last.

    Raises:
        ConfigError: if no cluster answers at the address that is named.
    """
    wanted = named(address)
    if wanted is None or wanted == "auto":
        return _join_one_of_this_machine(say, recorded_address(run) if run else None)
    try:
        with waiting_for(f"the Ray cluster at {wanted} to answer", say):
            if not open_within(wanted, wait):  # Ray itself would try for minutes
                raise ConnectionError
            _connect(wanted)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--address: no Ray cluster answers at {wanted!r}; it is written HOST:PORT") from error
    return True


def require_cluster(address: str | None, say: Say, wait: float = 0.0, run: Path | None = None) -> None:
    """Join a cluster as `join` does; one that is named may take `wait` seconds to come.

    Raises:
        ConfigError: if there is none.
    """
    if not join(address, say, wait, run):
        raise ConfigError(
            "--address: no Ray cluster to join runs on this machine; start one (ray start --head) or name its address"
        )


def join_or_start(address: str | None, say: Say, wait: float = 0.0) -> None:
    """Join the cluster that is named, or start one of this process's own, which ends with it; says which.

    A cluster that isn't named is never joined. Ray's own default is to join the one that `ray start` last recorded on this
    machine, and to try for minutes if that one was killed.

    Raises:
        ConfigError: if no cluster answers within `wait` seconds at the address that is named.
    """
    if wanted := named(address):
        require_cluster(wanted, say, wait)
        say(f"joined the Ray cluster at {wanted}")
        return
    start(say)


def start(say: Say, num_cpus: int | None = None, include_dashboard: bool = True) -> None:
    """Start a cluster of this process's own, which ends with it, with this machine's processors or so many. No other machine
    reaches it: all that it opens is on the loopback address."""
    with waiting_for("Ray to start", say), on_loopback():
        context = ray.init(address="local", num_cpus=num_cpus, include_dashboard=include_dashboard, **_QUIET)
    if include_dashboard:
        say(f"Ray dashboard: http://{context.dashboard_url}")


def clusters_here(likely: str | None = None) -> list[str]:
    """HOST:PORT of this user's clusters that this machine is a node of and that can be reached: the likely one if it is there,
    then the one that started last.

    By the raylets that run here, one per node: the address that `ray start` records outlives a cluster that was killed. Other
    users' are passed over, because who joins a cluster shows it this user's token.
    """
    found: dict[str, None] = {}
    processes = [process.info for process in psutil.process_iter(["name", "cmdline", "create_time", "uids"])]
    for process in sorted(processes, key=lambda process: process["create_time"] or 0.0, reverse=True):
        if process["name"] == "raylet" and process["uids"] and process["uids"].real == os.getuid():
            addresses = (argument.partition("=") for argument in process["cmdline"] or ())
            found |= {value: None for option, _, value in addresses if option in ("--gcs-address", "--gcs_address")}
    return sorted(filter(_is_open, found), key=lambda address: address != likely)  # which keeps the order of the others


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
    found = [actor for actor in live_actors() if actor.name == f"{run}/learner"]
    if len(found) != 1:
        raise ConfigError(f"{len(found) or 'no'} learner{'s' * (len(found) > 1)} of run {run!r} on this cluster")
    return ray.get_actor(found[0].name, found[0].ray_namespace)


def _join_one_of_this_machine(say: Say, likely: str | None) -> bool:
    if ray.is_initialized():
        return True
    found = clusters_here(likely)
    if not found:
        return False
    say(f"joining the Ray cluster at {found[0]}" + (f"; others here: {', '.join(found[1:])}" if found[1:] else ""))
    try:
        with waiting_for("it to answer", say):
            _connect(found[0])
    except ConnectionError:  # it asks for a token that this user doesn't have, or ends at this moment
        say(f"the Ray cluster at {found[0]} does not let this command in")
        return False
    return True


def _connect(address: str) -> None:
    """Let this process join a cluster; one that listens on the loopback address alone, as `start` makes them, from there."""
    ours = address in clusters_here()
    if ours:
        present_token()
    with on_loopback() if ours and address.startswith(f"{LOOPBACK}:") else nullcontext():
        ray.init(address, ignore_reinit_error=True, **_QUIET)


def open_within(address: str, seconds: float) -> bool:
    """Whether something listens at HOST:PORT now or soon; raises ValueError if it is not written so."""
    deadline = time.monotonic() + seconds
    while not (found := _is_open(address)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return found


def _is_open(address: str) -> bool:
    """Whether something listens at HOST:PORT; raises ValueError if it is not written so."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_S).close()
    except OSError:
        return False
    return True
