"""The audit of packages: pip-audit itself, which asks a database of this test's."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import Quiet, served

VULNERABLE = "markupsafe"


class Database(Quiet):
    """Knows a vulnerability of one package, in the form of OSV (https://ossf.github.io/osv-schema/)."""

    vulnerable: str | None = None

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = asked["package"]["name"].lower() == self.vulnerable
        affected = {
            "package": asked["package"],
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
            "versions": [asked["version"]],
        }
        found = {"id": "PYSEC-0", "summary": "made up", "modified": "2026-01-01T00:00:00Z", "affected": [affected]}
        content = json.dumps({"vulns": [found]} if known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def database() -> Iterator[str]:
    with served(Database) as server:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"


def audit(url: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "deploy/audit.py", url], capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_vulnerable_package_is_named_and_fails(database, monkeypatch):
    count = Path("constraints.txt").read_text().count("==")
    monkeypatch.setattr(Database, "vulnerable", None)
    assert audit(database) == (0, f"audited {count} packages of constraints.txt: 0 with known vulnerabilities\n")
    monkeypatch.setattr(Database, "vulnerable", VULNERABLE)
    status, said = audit(database)
    assert status == 1
    assert f"{VULNERABLE} " in said
    assert ": PYSEC-0, mended in 99.0" in said
    assert f"audited {count} packages of constraints.txt: 1 with known vulnerabilities" in said


def test_an_audit_that_fails_says_so(database, tmp_path):
    """Which is not the same as a database that is away."""
    (tmp_path / "constraints.txt").write_text("no == version == at all")
    audited = [sys.executable, str(Path("deploy/audit.py").absolute()), database]
    done = subprocess.run(audited, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.startswith("pip-audit failed: ")


def test_without_its_database_nothing_fails_and_that_is_said():
    status, said = audit("http://127.0.0.1:1/v1/query")
    assert status == 0
    assert said.startswith("NOT AUDITED: http://127.0.0.1:1/v1/query did not answer")
