"""Finding a cluster: one that lives, one that was killed, and what a command says then."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from waiting import wait_for

from pipelines.cluster import connect
from pipelines.cluster.waiting import waiting_for
from pipelines.config.errors import ConfigError
from pipelines.run_folder.address import record_address, recorded_address
from pipelines.run_folder.outcome import write_config

RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    """A cluster that `ray start --head` began, and recorded in a folder of its own."""

    address: str
    environment: dict[str, str]
    process: subprocess.Popen

    def kill(self) -> None:
        """Kill its processes, which have no time to take the record away."""
        everyone = [self.process, *psutil.Process(self.process.pid).children(recursive=True)] if self.alive else []
        for process in everyone:
            process.kill()
        self.process.wait(timeout=60)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


@pytest.fixture
def head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="fw-")  # short: Ray makes sockets below it
    port, dashboard, agent = _free_port(), _free_port(), _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": folder, "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command = [RAY, "start", "--head", "--block", "--num-cpus=1", "--include-dashboard=false", *ports]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = Head(f"127.0.0.1:{port}", environment, process)
    try:
        yield started
    finally:
        started.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _ports(addresses: list[str]) -> list[str]:
    """Ray writes the machine's address where a user writes 127.0.0.1."""
    return [address.rpartition(":")[2] for address in addresses]


@pytest.mark.slow
def test_a_cluster_that_was_killed_is_not_waited_for(head, make_config):
    record = Path(head.environment["RAY_TMPDIR"]) / "ray" / "ray_current_cluster"
    port = head.address.rpartition(":")[2]
    wait_for(
        lambda: not head.alive or (record.exists() and port in _ports(connect.clusters_here())),
        f"the cluster at {head.address}",
    )
    assert head.alive, "ray start ended"
    head.kill()
    assert record.read_text().endswith(f":{port}"), "Ray's own search would find it, and try for minutes"
    assert port not in _ports(connect.clusters_here())

    config = make_config("run.name=lonely")
    write_config(config)
    for command, *arguments in (["status"], ["scale", "rollout=2"], ["change", "--at", "2", "routes.local_edit.weight=2"]):
        asked = subprocess.run(
            [sys.executable, "-m", f"pipelines.{command}", str(config.folder), *arguments],
            env=head.environment | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        said = asked.stdout + asked.stderr
        assert "o Ray cluster " in said or "joining the Ray cluster at" in said, said  # another's
        assert f":{port}" not in said
        assert asked.returncode == (0 if command == "status" else 2), said


RAYLET = "echo; sleep 1000; true"  # a process of this name and address, which is what a cluster is known by


def test_of_several_clusters_that_of_the_run_comes_first(tmp_path, monkeypatch):
    shutil.copy("/bin/bash", tmp_path / "raylet")
    with ExitStack() as stack:
        addresses = []
        for _ in range(3):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            addresses.append(f"127.0.0.1:{listener.getsockname()[1]}")
            command = [tmp_path / "raylet", "-c", RAYLET, "raylet", f"--gcs-address={addresses[-1]}"]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            assert process.stdout is not None
            process.stdout.readline()  # it has begun

        def ours(likely: str | None) -> list[str]:
            return [address for address in connect.clusters_here(likely) if address in addresses]

        for address in addresses:
            record_address(tmp_path, address)
            found = connect.clusters_here(recorded_address(tmp_path))
            assert found[0] == address
            assert set(addresses) <= set(found)
        assert set(ours(None)) == set(ours("127.0.0.1:1")) == set(addresses), "also where it has ended"
        monkeypatch.setattr("os.getuid", lambda: 12345)
        assert not ours(None), "clusters of another user, whom this one's token is no business of"
    assert recorded_address(tmp_path / "nowhere") is None


def test_a_named_cluster_must_answer(monkeypatch):
    with socket.socket() as listener:  # bound, but nobody listens
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at '{address}'"):
            connect.join_or_start(address, print)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at '{address}'"):
            connect.join(None, print)
    with pytest.raises(ConfigError, match="it is written HOST:PORT"):
        connect.join("nowhere", print)


def test_what_takes_long_is_said_once():
    said: list[str] = []
    with waiting_for("nothing", said.append, after_s=60):
        pass
    with waiting_for("the end", said.append, after_s=0.01):
        wait_for(lambda: said, "the line")
    assert said == ["waiting for the end"]
