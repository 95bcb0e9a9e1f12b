"""Going back to an older checkpoint keeps the record whole."""

import json

from fields.checkpoint import newest
from pipelines.distill import main
from runs import trained_ids


def test_a_run_that_goes_back_and_on_trains_every_sample_once(config_file, make_config):
    folder = make_config().folder
    older = folder / "checkpoints" / "step-000004"
    assert main([str(config_file), "--reference"]) == 0
    assert main([str(config_file), "--reference", "--resume", str(older), "run.steps=4"]) == 0
    assert trained_ids(folder) == sorted(trained_ids(folder), key=lambda sample_id: sample_id // 12)
    assert sorted(trained_ids(folder)) == list(range(4 * 12))
    assert main([str(config_file), "--reference"]) == 0
    assert sorted(trained_ids(folder)) == list(range(8 * 12))


def test_a_newest_checkpoint_cut_in_half_costs_its_steps_only(config_file, make_config):
    config = make_config("run.seed=11", "learner.lag=3")
    overrides = ["--reference", "run.seed=11", "learner.lag=3"]
    assert main([str(config_file), *overrides]) == 0
    summary = json.loads((config.folder / "summary.json").read_text())
    damaged = config.folder / "checkpoints" / "step-000008" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    assert main([str(config_file), *overrides]) == 0
    again = json.loads((config.folder / "summary.json").read_text())
    assert again["weights_sha256"] == summary["weights_sha256"]
    assert sorted(trained_ids(config.folder)) == list(range(8 * 12))
    assert newest(config.folder / "checkpoints") == damaged.parent
