"""A head that keeps what it knows in Redis is replaced, and finds the services that stood."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from waiting import LIMIT_S, wait_for

from pipelines.run.chaos_nodes import HEAD, OTHER, ROLE, Nodes
from runs import reference

OWN_MACHINE = ("unshare", "--pid", "--fork", "--mount-proc")  # `ray start` refuses a head whose address a raylet here uses


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of a Redis server."""
    if subprocess.run([*OWN_MACHINE, "true"], check=False).returncode != 0:
        pytest.skip("a process that sees no others needs root, and a container that lets it")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(answers, "Redis")
    yield f"127.0.0.1:{port}"
    server.kill()
    server.wait()


def replicas(nodes: Nodes) -> set[int]:
    """Processes of the experts and the encoder."""
    everyone = [process for pid in nodes.pids for process in psutil.Process(pid).children(recursive=True)]
    alive = [process for process in everyone if process.status() != psutil.STATUS_ZOMBIE]
    return {process.pid for process in alive if "ray::ServeReplica:" in " ".join(process.cmdline())}


@pytest.mark.slow
def test_services_outlive_the_head(config_file: Path, make_config, redis: str):
    """On the other node they go on, while the head is killed with the run and the next head takes their place in the list."""
    settings = ["run.steps=8", "rollout.workers=1", "run.services=studio"]
    settings += [f"{part}.node_labels={{{ROLE}: {OTHER}}}" for part in ("encoder", "rollout")]
    settings += [f"experts.{name}.node_labels={{{ROLE}: {OTHER}}}" for name in ("text_to_image", "local_edit", "global_edit")]

    with Nodes(redis, within=OWN_MACHINE) as nodes:

        def run(command: str, *more: str) -> str:
            arguments = [sys.executable, "-m", f"pipelines.{command}", str(config_file), *settings, *more]
            done = subprocess.run(
                [*arguments, "--address", nodes.address, "--wait", str(LIMIT_S)],
                env=nodes.environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        run("serve_experts")
        before = replicas(nodes)
        assert len(before) == 4
        nodes.lose(HEAD)
        assert replicas(nodes) == before
        nodes.start()
        run("distill", "run.name=after")
        assert replicas(nodes) == before, "nobody was started anew"
    summary = json.loads((make_config("run.name=after").folder / "summary.json").read_text())
    assert summary["weights_sha256"] == reference(make_config("run.steps=8", "run.name=reference")).weights.checksum
    assert os.environ.get("RAY_REDIS_ADDRESS") is None
