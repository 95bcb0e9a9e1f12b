"""What a cluster that others can join opens: as the table in docs/operations.md says, and to nobody without its token."""

import re
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from waiting import wait_for

from pipelines.run.chaos_nodes import HEAD, OTHER, Nodes

TABLE = (
    (Path(__file__).parents[3] / "docs" / "operations.md").read_text().split("### What a cluster opens")[1].split("\n## ")[0]
)
PROCESSES = {
    r".*gcs_server": "GCS",
    r".*raylet/raylet": "raylet",
    r".*util[./]client[./]server": "Ray client",
    r"ray::DashboardAgent|.*dashboard/agent\.py": "agent",
    r"ray::RuntimeEnvAgent|.*runtime_env/agent/main": "runtime environments",
    r".*dashboard/dashboard\.py": "dashboard",
    r".*monitor\.py": "autoscaler",
}


def listening(nodes: Nodes) -> dict[tuple[str, str], set[tuple[str, int]]]:
    """Node and process -> the kind of address (all, node, loopback) and the port of each socket that listens."""
    found: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for role, pid in zip((HEAD, OTHER), nodes.pids, strict=True):
        for process in psutil.Process(pid).children(recursive=True):
            command = " ".join(process.cmdline())
            name = next((name for pattern, name in PROCESSES.items() if re.match(pattern, command)), command)
            for socket in process.net_connections("tcp"):
                if socket.status == psutil.CONN_LISTEN:
                    ip = socket.laddr.ip.removeprefix("::ffff:")
                    kind = "all" if ip in ("0.0.0.0", "::") else "loopback" if ip == "127.0.0.1" else "node"
                    found.setdefault((role, name), set()).add((kind, socket.laddr.port))
    return found


@pytest.mark.slow
def test_the_table_names_every_socket_and_the_dashboard_asks_for_the_token():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines() if line.startswith("| ")][1:]
    listed = {(where, name): set(addresses.split(", ")) for name, where, addresses, *_ in rows if "our" not in where}
    with Nodes() as nodes:
        complete = {name for _, name in listed} - {"autoscaler"}  # its port is fixed, and another cluster here may have it
        found = wait_for(lambda: (now := listening(nodes)) and complete <= {name for _, name in now} and now, "all of Ray")
        for (role, name), sockets in found.items():
            where = "head" if (("head", name) in listed) else "every node"
            assert role == HEAD or where == "every node", name
            assert {kind for kind, _ in sockets} <= listed[where, name], (role, name, sockets)
        (port,) = {port for kind, port in found[HEAD, "dashboard"] if kind == "loopback"}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v0/actors", timeout=60)
