"""A run whose folder is lost continues from object storage, to the same student."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import LIMIT_S

from actors.mirror import Mirror
from pipelines.run_folder.find import newest_step
from pipelines.run_folder.outcome import write_config
from pipelines.status import main as status
from runs import reference, trained_ids

SECRETS = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY")


@pytest.mark.slow  # two starts of everything; tests/actors/test_mirror.py has the parts
def test_a_run_whose_folder_is_lost_continues_from_the_mirror(config_file: Path, make_config, s3, s3_server: str, monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, f"secret-{name}")
    mirror = f"s3://runs/ours?endpoint_override={s3_server}&scheme=http"
    settings = "learner.lag=1", "rollout.workers=1", "run.name=mirrored", f"checkpoint.mirror={mirror}"

    def run(*more: str) -> str:
        command = [sys.executable, "-m", "pipelines.distill", str(config_file), *settings, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
        return done.stdout

    said: list[str] = []

    folder = make_config(*settings).folder
    run("run.steps=4")
    assert newest_step(folder) == 4
    shutil.rmtree(folder)
    resumed = run("run.steps=8")
    assert f"the checkpoint after step 4 was brought from {mirror}" in resumed
    assert "mirrored: steps 4 to 8" in resumed
    expected = reference(make_config("learner.lag=1", "run.name=reference"))
    assert f'"weights_sha256": "{expected.weights.checksum}"' in (folder / "summary.json").read_text()
    assert trained_ids(folder) == trained_ids(folder.parent / "reference")
    copied = Mirror(mirror, "mirrored")
    assert copied.steps() == [8, 4]
    keys = {found["Key"] for found in s3.list_objects_v2(Bucket="runs")["Contents"]}
    assert {f"ours/mirrored/{name}" for name in ("summary.json", "report.html", "config.yaml", "metrics.jsonl")} <= keys
    run("run.steps=4", "--resume", "never")
    assert copied.steps() == [4], "what another student left would be taken for this one's"
    assert s3.get_object(Bucket="runs", Key="ours/mirrored/metrics.jsonl")["Body"].read().count(b"\n") == 4
    logs = Path("/tmp/ray/session_latest").resolve() / "logs"  # of the last of these runs
    files = [path for place in (folder, logs) for path in place.rglob("*") if path.is_file()]
    assert any(path.name == "gcs_server.out" for path in files)
    told = [str(path) for path in files if b"secret-" in path.read_bytes()]
    assert not told, "secrets stand in the run's record or in Ray's logs"
    assert not any("secret-" in text for text in said)


def test_the_status_of_a_run_is_read_from_its_mirror(make_config, s3, s3_server, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FIELDWEAVE_CACHE", str(tmp_path / "cache"))
    config = make_config("run.name=far", "run.steps=4")
    write_config(config)
    reference(config)
    options = f"?endpoint_override={s3_server}&scheme=http"
    Mirror(f"s3://runs/ours{options}", "far").store(config.folder / "checkpoints" / "step-000004")
    assert status([f"s3://runs/ours/far{options}"]) == 0
    assert "step 4 of 4" in capsys.readouterr().out
    assert status([f"s3://runs/ours/nowhere{options}"]) == 2
    assert capsys.readouterr().err == f"error: s3://runs/ours/nowhere{options}: there is no run's record\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["checkpoint.mirror=ftp://host/runs"], "checkpoint.mirror: ftp://host/runs: "),
        (["checkpoint.mirror=/dev/null/runs"], "checkpoint.mirror: /dev/null/runs: "),
        (
            ["checkpoint.mirror=/tmp", "--reference"],
            "checkpoint.mirror: /tmp is for a run on Ray; allowed with --reference: none",
        ),
    ],
)
def test_a_mirror_that_cannot_be_is_refused_in_a_line(refuse, settings, said):
    assert said in refuse(*settings)


def test_wrong_credentials_are_refused_in_a_line(refuse, s3, s3_server: str):
    mirror = f"s3://missing/ours?endpoint_override={s3_server}&scheme=http"
    assert f"error: checkpoint.mirror: {mirror}: " in refuse(f"checkpoint.mirror={mirror}")
