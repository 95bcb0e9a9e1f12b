"""A run as a Ray job, by the commands that a user types: start a cluster, submit, stop, submit again."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from actors.journal import METRICS, rows
from fields import checkpoint
from pipelines.distill import main
from runs import reference, trained_ids

STEPS = 60
OVERRIDES = ("learner.lag=2", "learner.batch_size=6", f"run.steps={STEPS}", "checkpoint.every=1000")
PLACES = [f"{part}.node_labels.role=everything" for part in ("learner", "rollout", "encoder", "experts.local_edit")]
TOKEN = "0123456789abcdef" * 4
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    """A cluster of one node with a single CPU: two runs of the tiny models don't fit side by side."""

    address: str
    environment: dict[str, str]

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RAY, *arguments], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
        )


@pytest.fixture
def head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="fw-")  # short: Ray makes sockets below it
    dashboard, agent = _free_port(), _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": folder, "PATH": f"{RAY.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    ports = [f"--port={_free_port()}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command = [RAY, "start", "--head", "--block", "--num-cpus=1", "--labels=role=everything", *ports]
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(lambda: _healthy(dashboard, "gcs_healthz") and _healthy(agent, "local_raylet_healthz"))
        yield Head(f"http://127.0.0.1:{dashboard}", environment)
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(600)
def test_a_job_is_submitted_stopped_submitted_again_and_ends_with_the_student_of_the_reference(head, config_file, make_config):
    undisturbed = reference(make_config(*OVERRIDES, "run.name=undisturbed"))
    folder = make_config("run.name=job").folder
    submit = ["job", "submit", "--address", head.address, "--working-dir", "."]
    entrypoint = ["python", "-m", "pipelines.distill", str(config_file), *OVERRIDES, *PLACES, "run.name=job"]

    patient = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "100"}})
    submitted = head.ray(*submit, "--no-wait", "--submission-id=first", f"--runtime-env-json={patient}", "--", *entrypoint)
    assert submitted.returncode == 0, submitted.stdout
    client = JobSubmissionClient(head.address, headers={"Authorization": f"Bearer {TOKEN}"})
    _wait_for(lambda: "step" in (client.get_job_info("first").metadata or {}), lambda: client.get_job_logs("first"))
    (uploaded,) = Path(head.environment["RAY_TMPDIR"]).glob(
        "ray/session_latest/runtime_resources/working_dir_files/_ray_pkg_*/"
    )
    assert {"pipelines", "fields"} <= {path.name for path in uploaded.iterdir()}
    assert {path.name for path in uploaded.iterdir()} & {"runs", "data", "tests", "docs", ".venv", ".git"} == set()
    assert sum(path.stat().st_size for path in uploaded.rglob("*")) < 20e6
    metadata = client.get_job_info("first").metadata
    assert metadata == {"run": "job", "step": metadata["step"], "steps": str(STEPS)}
    stopped = head.ray("job", "stop", "--address", head.address, "first")
    assert stopped.returncode == 0, stopped.stdout
    assert client.get_job_status("first") == "STOPPED"

    log = client.get_job_logs("first")
    assert re.search(rf"^step \d+/{STEPS}  loss (global_edit|local_edit|text_to_image) \d+\.\d+", log, re.MULTILINE), log
    assert "stopped as asked, with a checkpoint" in log
    assert [character for character in log if not character.isprintable() and character not in "\n\t"] == []
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    assert 0 < checkpoint.read(newest).step < STEPS
    assert checkpoint.read(newest).step == len(rows(folder / METRICS)), "the checkpoint is of the last step that was done"

    check = [sys.executable, *entrypoint[1:], "--address", "auto", "--dry-run", "learner.num_cpus=5"]
    refused = subprocess.run(check, env=head.environment, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2
    assert "error: num_cpus: the run needs 5.6 (learner 1 x 5, rollout 2 x 0.1, " in refused.stderr
    assert "; the cluster has 1" in refused.stderr

    resumed = head.ray(*submit, "--", *entrypoint)
    assert resumed.returncode == 0, resumed.stdout
    assert f"from {newest}" in resumed.stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["weights_sha256"] == undisturbed.weights.checksum
    assert sorted(trained_ids(folder)) == list(range(STEPS * 6))


def test_a_run_folder_in_the_jobs_copy_of_the_checkout_is_warned_about(config_file, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "_ray_pkg_0123"
    copy.mkdir()
    monkeypatch.chdir(copy)
    assert main([str(config_file), "--reference", "run.steps=1", "run.dir=runs"]) == 0
    assert "warning: runs/tiny lies in the job's copy of the checkout, which Ray deletes" in capsys.readouterr().out
    assert main([str(config_file), "--reference", "run.steps=1", f"run.dir={tmp_path}"]) == 0
    assert "warning" not in capsys.readouterr().out


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _healthy(port: int, probe: str) -> bool:
    """By the paths that the pods of deploy/kuberay are probed at, which take no token."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{probe}", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _wait_for(condition, message=lambda: "waited in vain", seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.3)
