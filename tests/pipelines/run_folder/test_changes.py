"""Changes of a run that goes on: what can change, and that a run which continues repeats them."""

import json

import pytest

from actors.journal import CHANGES
from pipelines.config.errors import ConfigError
from pipelines.distill import main
from pipelines.run_folder.changes import changed, with_recorded_changes
from runs import reference


def test_a_weight_and_a_route_come_at_their_step(make_config, scene_data):
    config = make_config("routes.local_edit.weight_changes={6: 4}")
    data = scene_data / "global_edit.parquet"
    settings = {
        "routes.local_edit.weight": 2,
        "experts.another.adapter": str(config.experts["global_edit"].adapter),
        "routes.another": {"expert": "another", "data": str(data), "weight": 3},
    }
    later = changed(config, 5, settings)
    assert later.routes["local_edit"].weight_changes == {5: 2, 6: 4}
    assert later.routes["another"].weight == 0
    assert later.route_weights == {
        0: {"text_to_image": 1, "local_edit": 1, "global_edit": 1, "another": 0},
        5: {"text_to_image": 1, "local_edit": 2, "global_edit": 1, "another": 3},
        6: {"text_to_image": 1, "local_edit": 4, "global_edit": 1, "another": 3},
    }
    assert later.experts["another"].adapter == config.experts["global_edit"].adapter


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learner.learning_rate", 1.0, "learner.learning_rate: it stays as it is while a run goes on; what can change is"),
        ("routes.local_edit.expert", "global_edit", "routes.local_edit.expert: it stays as it is"),
        ("experts.local_edit.adapter", "x", "experts.local_edit.adapter: it stays as it is"),
        ("routes.local_edit.weight", -1, "routes.local_edit.weight_changes.5: Input should be greater than or equal to 0"),
        ("routes.another.expert", "local_edit", "routes.another.data: this key is required"),
        ("routes.another", 5, "routes.another: a route has the keys expert and data, and may have a weight; this is 5"),
        ("routes.another.weight_changes", {2: 1}, "routes.another.weight_changes: a route that comes has one weight"),
        ("routes.another", {"expert": "nobody", "data": "x"}, "routes.another.expert: unknown expert 'nobody'; allowed: "),
    ],
)
def test_what_cannot_change_is_refused_by_name(make_config, key, value, message):
    with pytest.raises(ConfigError) as refusal:
        changed(make_config(), 5, {key: value})
    assert str(refusal.value).startswith(message)


def test_a_run_that_mixes_its_experts_gets_no_route(make_config):
    with pytest.raises(ConfigError, match="soft routing mixes the experts of all routes"):
        changed(make_config("preset=softmix"), 5, {"routes.another": {"expert": "local_edit", "data": "x"}})


@pytest.mark.slow
def test_a_run_that_continues_repeats_what_stands_in_its_record(config_file, make_config):
    planned = reference(make_config("run.name=planned", "routes.local_edit.weight_changes={6: 9}"))
    unchanged = reference(make_config("run.name=unchanged"))
    config = make_config()
    assert main([str(config_file), "--reference", "run.steps=4"]) == 0
    record = config.folder / CHANGES
    record.write_text(json.dumps({"step": 6, "set": {"routes.local_edit.weight": 9}}) + "\n")
    assert with_recorded_changes(config, config.folder).routes["local_edit"].weight_changes == {6: 9}
    assert main([str(config_file), "--reference"]) == 0
    summary = json.loads((config.folder / "summary.json").read_text())
    assert summary["weights_sha256"] == planned.weights.checksum != unchanged.weights.checksum
    assert main([str(config_file), "--reference", "--resume", "never"]) == 0
    assert json.loads((config.folder / "summary.json").read_text())["weights_sha256"] == unchanged.weights.checksum


def test_a_record_that_no_longer_fits_is_refused(config_file, make_config, capsys):
    config = make_config()
    config.folder.mkdir(parents=True)
    (config.folder / CHANGES).write_text(json.dumps({"step": 6, "set": {"routes.gone.weight": 9}}) + "\n")
    assert main([str(config_file), "--reference"]) == 2
    assert f"{config.folder / CHANGES}, step 6: routes.gone.expert: this key is required" in capsys.readouterr().err
