"""A Ray cluster of two nodes on this machine, which can be lost like machines and are replaced."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from pipelines.cluster.connect import open_within

ROLE = "chaos-role"  # the label of Ray's that tells the nodes apart
HEAD, OTHER = "head", "other"
_STARTS_S = 120.0


def kill_with_descendants(pid: int) -> None:
    """End a process, and all that it started, at once."""
    with suppress(psutil.NoSuchProcess):
        everyone = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for process in everyone:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Nodes:
    """A head and another node, each with this machine's processors; a context manager, at whose end they are gone.

    Args:
        redis: HOST:PORT of a Redis server, in which the head keeps what it knows: with it the other node outlives the head.
        within: a command that runs each node's, so that it takes itself to be alone on its machine.

    Attributes:
        address: of the cluster, also of the next head's.
        environment: of the processes that join it, with the token that it asks for.
    """

    def __init__(self, redis: str | None = None, within: Sequence[str] = ()) -> None:
        self._within = within
        self._port, self._dashboard_port = _free_port(), _free_port()
        self.address = f"{socket.gethostbyname(socket.gethostname())}:{self._port}"
        self.environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._folder = Path(tempfile.gettempdir(), f"chaos-{self._port}")  # else Ray records it as the machine's cluster
        self._outlives = redis is not None
        if redis:
            self.environment |= {"RAY_REDIS_ADDRESS": redis, "RAY_external_storage_namespace": self.address}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> list[int]:
        """Of the processes that started the nodes: all of a node's are their descendants."""
        return [node.pid for node in self._running.values()]

    def start(self) -> None:
        """Start the nodes that don't run, the head first."""
        for role in (HEAD, OTHER):
            if role not in self._running:
                own = {"port": self._port, "dashboard-port": self._dashboard_port, "temp-dir": self._folder}
                head = ["--head", *(f"--{option}={value}" for option, value in own.items())]
                where = head if role == HEAD else [f"--address={self.address}"]
                self._running[role] = self._started(role, where)
                open_within(self.address, _STARTS_S)

    def _started(self, role: str, where: list[str]) -> "subprocess.Popen[bytes]":
        ray = str(Path(sys.executable).with_name("ray"))
        options = ["--block", "--disable-usage-stats", f"--num-cpus={os.cpu_count()}", f"--labels={ROLE}={role}"]
        return subprocess.Popen(
            [*self._within, ray, "start", *where, *options], env=self.environment, stdout=subprocess.DEVNULL
        )

    def lose(self, role: str) -> None:
        """Kill all processes of a node; with a head that kept what it knows to itself all nodes go: they have no cluster."""
        for lost in [role] if self._outlives or role == OTHER else [HEAD, OTHER]:
            node = self._running.pop(lost)
            kill_with_descendants(node.pid)
            node.wait()

    def __enter__(self) -> "Nodes":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for role in list(self._running):
            if role in self._running:
                self.lose(role)
        shutil.rmtree(self._folder, ignore_errors=True)
