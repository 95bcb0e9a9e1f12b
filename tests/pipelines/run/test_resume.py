"""Going back to an older checkpoint keeps the record whole."""

import json
import subprocess
import sys

import pytest
from waiting import wait_for

from actors.journal import METRICS, rows
from fields.checkpoint import newest, read
from pipelines.distill import main
from runs import reference, trained_ids


def test_a_run_that_goes_back_and_on_trains_every_sample_once(config_file, make_config):
    folder = make_config().folder
    older = folder / "checkpoints" / "step-000004"
    assert main([str(config_file), "--reference"]) == 0
    assert main([str(config_file), "--reference", "--resume", str(older), "run.steps=4"]) == 0
    assert trained_ids(folder) == sorted(trained_ids(folder), key=lambda sample_id: sample_id // 12)
    assert sorted(trained_ids(folder)) == list(range(4 * 12))
    assert main([str(config_file), "--reference"]) == 0
    assert sorted(trained_ids(folder)) == list(range(8 * 12))


def test_a_killed_process_is_resumed_to_the_same_student(config_file, make_config):
    config = make_config("run.name=killed")
    arguments = [str(config_file), "--reference", "run.name=killed"]
    command = [sys.executable, "-m", "pipelines.distill", *arguments, "run.steps=100000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: (config.folder / "checkpoints" / "step-000004").exists(), "a checkpoint", every_s=0.02)
            wait_for(lambda: len(rows(config.folder / METRICS)) > 5, "two more steps", every_s=0.02)
        finally:
            process.kill()
    found = newest(config.folder / "checkpoints")
    assert found is not None
    steps = read(found).step + 6
    expected = reference(make_config("run.name=undisturbed", f"run.steps={steps}"))
    assert main([*arguments, f"run.steps={steps}"]) == 0
    assert json.loads((config.folder / "summary.json").read_text())["weights_sha256"] == expected.weights.checksum
    assert trained_ids(config.folder) == trained_ids(make_config("run.name=undisturbed").folder)


@pytest.mark.slow
def test_a_newest_checkpoint_cut_in_half_costs_its_steps_only(config_file, make_config, capsys):
    config = make_config("run.seed=11", "learner.lag=3")
    overrides = ["--reference", "run.seed=11", "learner.lag=3"]
    assert main([str(config_file), *overrides]) == 0
    summary = json.loads((config.folder / "summary.json").read_text())
    damaged = config.folder / "checkpoints" / "step-000008" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    capsys.readouterr()
    assert main([str(config_file), *overrides]) == 0
    assert "warning: step-000008 is not complete; it is passed over, and deleted" in capsys.readouterr().out
    again = json.loads((config.folder / "summary.json").read_text())
    assert again["weights_sha256"] == summary["weights_sha256"]
    assert sorted(trained_ids(config.folder)) == list(range(8 * 12))
    assert newest(config.folder / "checkpoints") == damaged.parent


def test_what_auto_became_is_what_a_run_continues_with(config_file, make_config, monkeypatch, capsys):
    """The checkpoint says the micro-batch; on a GPU `auto` is settled before it is compared with that."""
    given = [str(config_file), "--reference", "--dry-run", "learner.num_gpus=1", "rollout.num_gpus=1", "rollout.workers=1"]
    assert main([str(config_file), "--reference", "learner.micro_batch=4"]) == 0  # as a GPU with room for a group decides
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert main(given) == 0
    assert "needs 2 GPUs such as h100; GB of the room of each process: learner 0.0 of 79.3" in capsys.readouterr().out
    assert main([*given, "rollout.merge=false"]) == 2
    assert "rollout.merge: True -> False" in capsys.readouterr().err
