"""A run as a Ray job, by the commands that a user types: start a cluster, submit, watch, scale, change, stop, submit again."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobSubmissionClient
from waiting import LIMIT_S, wait_for

from actors.journal import METRICS, rows
from fields import checkpoint
from pipelines.config.run import RunConfig
from pipelines.distill import main
from runs import reference, trained_ids

FOREVER = 100_000  # steps of the first submission, which is stopped
OVERRIDES = ("learner.lag=2", "learner.batch_size=6", "rollout.steps=4", "rollout.num_cpus=0.05", "checkpoint.every=1000000")
PLACES = [f"{part}.node_labels.role=everything" for part in ("learner", "rollout", "encoder", "experts.local_edit")]
TOKEN = "0123456789abcdef" * 4
BEARER = {"Authorization": f"Bearer {TOKEN}"}
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    """A cluster of one node with a single CPU: two runs of the tiny models don't fit side by side."""

    address: str  # of the dashboard, which takes jobs
    cluster: str
    environment: dict[str, str]

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RAY, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )

    def fieldweave(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"pipelines.{command}", *arguments, "--address", self.cluster],
            env=self.environment | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    def replicas(self, application: str) -> set[str]:
        """The ids of an application's running replicas, as the dashboard shows them."""
        alive = "limit=1000&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
        question = urllib.request.Request(f"{self.address}/api/v0/actors?{alive}", headers=BEARER)
        with urllib.request.urlopen(question, timeout=LIMIT_S) as answer:
            actors = json.load(answer)["data"]["result"]["result"]
        return {actor["actor_id"] for actor in actors if (actor["name"] or "").startswith(f"SERVE_REPLICA::{application}#")}


@pytest.fixture
def head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="fw-")  # short: Ray makes sockets below it
    gcs, dashboard, agent = _free_port(), _free_port(), _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": folder, "PATH": f"{RAY.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    ports = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command = [RAY, "start", "--head", "--block", "--num-cpus=1", "--labels=role=everything", *ports]
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(
            lambda: _healthy(dashboard, "gcs_healthz") and _healthy(agent, "local_raylet_healthz"),
            "a healthy head",
            every_s=0.3,
        )
        yield Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment)
    finally:
        for process in [head, *psutil.Process(head.pid).children(recursive=True)]:
            process.kill()  # asked to end, `ray start` waits half a minute for its own children
        head.wait(LIMIT_S)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_job_is_submitted_scaled_changed_stopped_and_submitted_again_to_its_end(head, config_file, make_config):
    folder = make_config("run.name=job").folder
    submit = ["job", "submit", "--address", head.address, "--working-dir", "."]
    entrypoint = ["python", "-m", "pipelines.distill", str(config_file), *OVERRIDES, *PLACES, "run.name=job"]

    patient = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "100"}})
    first = [*entrypoint, f"run.steps={FOREVER}"]
    submitted = head.ray(*submit, "--no-wait", "--submission-id=first", f"--runtime-env-json={patient}", "--", *first)
    assert submitted.returncode == 0, submitted.stdout
    client = JobSubmissionClient(head.address, headers=BEARER)
    wait_for(
        lambda: f"/{FOREVER}  loss" in client.get_job_logs("first"),
        lambda: f"the first step; the job's log:\n{client.get_job_logs('first')}",
    )
    _the_upload_is_small(Path(head.environment["RAY_TMPDIR"]))
    _scales(head, folder)
    config = make_config()
    change = _changes(head, folder, config)

    stopped = head.ray("job", "stop", "--address", head.address, "first")
    assert stopped.returncode == 0, stopped.stdout
    assert client.get_job_status("first") == "STOPPED"
    log = client.get_job_logs("first")
    assert re.search(rf"^step \d+/{FOREVER}  loss (global_edit|local_edit|text_to_image) \d+\.\d+", log, re.MULTILINE), log
    assert "stopped as asked, with a checkpoint" in log
    assert [character for character in log if not character.isprintable() and character not in "\n\t"] == []
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    assert checkpoint.read(newest).step == len(rows(folder / METRICS)), "the checkpoint is of the last step that was done"

    refused = head.fieldweave("distill", *first[3:], "--dry-run", "learner.num_cpus=5")
    assert refused.returncode == 2
    assert "error: num_cpus: the run needs 5.6 (learner 1 x 5, rollout 2 x 0.05, " in refused.stderr
    assert "; the cluster has 1" in refused.stderr

    steps = max(change + 5, checkpoint.read(newest).step + 1)
    route = {"expert": "another", "data": str(config.routes["local_edit"].data), "weight": 0, "weight_changes": {change: 2}}
    planned = (
        f"routes.local_edit.weight_changes={{{change}: 9}}",
        f"experts.another.adapter={config.experts['global_edit'].adapter}",
        f"routes.another={route}",
    )
    with ThreadPoolExecutor(1) as beside:
        undisturbed = beside.submit(reference, make_config(*OVERRIDES, *planned, f"run.steps={steps}", "run.name=undisturbed"))
        resumed = head.ray(*submit, "--", *entrypoint, f"run.steps={steps}")
    assert resumed.returncode == 0, resumed.stdout
    assert f"from {newest}" in resumed.stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["weights_sha256"] == undisturbed.result().weights.checksum
    assert sorted(trained_ids(folder)) == list(range(steps * 6))
    finished = head.fieldweave("status", str(folder))
    assert f"job  finished  step {steps} of {steps} (100 %)" in finished.stdout
    assert "another" in {route for row in rows(folder / METRICS) for route in row["route_loss"]}
    wait_for(lambda: head.replicas("job-another") == set(), "the end of the expert that came")


def _the_upload_is_small(folder: Path) -> None:
    (uploaded,) = folder.glob("ray/session_latest/runtime_resources/working_dir_files/_ray_pkg_*/")
    assert {"pipelines", "fields"} <= {path.name for path in uploaded.iterdir()}
    assert {path.name for path in uploaded.iterdir()} & {"runs", "data", "tests", "docs", ".venv", ".git"} == set()
    assert sum(path.stat().st_size for path in uploaded.rglob("*")) < 20e6


def _scales(head: Head, folder: Path) -> None:
    """Up and down while the run goes on; the replica that stays is the old one."""
    (old,) = head.replicas("job-local_edit")
    up = head.fieldweave("scale", str(folder), "experts.local_edit=3", "rollout=4")
    assert (up.returncode, _said(up)) == (0, "experts.local_edit: 1 -> 3\nrollout: 2 -> 4\n"), up.stderr
    many = head.replicas("job-local_edit")
    assert len(many) == 3
    assert old in many
    screen = head.fieldweave("status", str(folder)).stdout
    assert re.search(r"local_edit +3 of 3 ", screen), screen
    assert "4 rollout workers" in screen, screen
    assert "warning" not in screen, screen
    down = head.fieldweave("scale", str(folder), "experts.local_edit=1", "rollout=1")
    assert (down.returncode, _said(down)) == (0, "experts.local_edit: 3 -> 1\nrollout: 4 -> 1\n"), down.stderr
    wait_for(lambda: len(head.replicas("job-local_edit")) == 1, "two ended replicas")  # they finish their calls first
    assert head.replicas("job-local_edit") < many
    refused = head.fieldweave("scale", str(folder), "encoder=99")
    assert refused.returncode == 2
    assert "num_cpus: the run needs 9.8 (encoder 98 x 0.1); the cluster, beside what others hold, has " in refused.stderr
    before = len(rows(folder / METRICS))
    wait_for(lambda: len(rows(folder / METRICS)) > before + 2, "three more steps")


def _said(command: subprocess.CompletedProcess[str]) -> str:
    """Without the lines in which Ray complains about this small machine, or a command says that it takes long on one."""
    lines = command.stdout.splitlines(keepends=True)
    return "".join(line for line in lines if "(raylet)" not in line and not line.startswith("waiting for "))


def _changes(head: Head, folder: Path, config: RunConfig) -> int:
    """The step from which one route is drawn more often, and another one comes with its expert."""
    wanted = (
        "routes.local_edit.weight=9",
        f"experts.another.adapter={config.experts['global_edit'].adapter}",
        "experts.another.num_cpus=0.1",
        "routes.another.expert=another",
        f"routes.another.data={config.routes['local_edit'].data}",
        "routes.another.weight=2",
    )
    refused = head.fieldweave("change", str(folder), "--at", "2", "routes.local_edit.weight=9")
    assert refused.returncode == 2
    assert re.search(r"--at 2: step 2 cannot change: .* the first that can is \d+", refused.stderr), refused.stderr
    for seconds in (10, 20, 40, 80, 160):  # the run goes on while the command starts: one of these is enough for it
        last = rows(folder / METRICS)[-20:]
        pace = (len(last) - 1) / (last[-1]["seconds"] - last[0]["seconds"])
        step = last[-1]["step"] + 20 + round(seconds * pace)
        done = head.fieldweave("change", str(folder), "--at", str(step), *wanted)
        if done.returncode == 0:
            break
    assert _said(done) == f"from step {step} on: {', '.join(wanted)}\n", done.stderr
    assert len(head.replicas("job-another")) == 1
    screen = head.fieldweave("status", str(folder)).stdout
    assert re.search(r"another +1 of 1 ", screen), screen
    assert "1 rollout workers" in screen, screen
    assert "rollout workers live" not in screen, "one is what was asked for last"
    return step


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
