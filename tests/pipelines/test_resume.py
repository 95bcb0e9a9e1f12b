"""Going back to an older checkpoint keeps the record whole."""

from runs import trained_ids

from pipelines.distill import main


def test_a_run_that_goes_back_and_on_trains_every_sample_once(config_file, make_config):
    folder = make_config().folder
    older = folder / "checkpoints" / "step-000004"
    assert main([str(config_file), "--reference"]) == 0
    assert main([str(config_file), "--reference", "--resume", str(older), "run.steps=4"]) == 0
    assert trained_ids(folder) == sorted(trained_ids(folder), key=lambda sample_id: sample_id // 12)
    assert sorted(trained_ids(folder)) == list(range(4 * 12))
    assert main([str(config_file), "--reference"]) == 0
    assert sorted(trained_ids(folder)) == list(range(8 * 12))
