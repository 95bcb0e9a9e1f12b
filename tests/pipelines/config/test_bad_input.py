"""What is wrong with the input is said in one line, before Ray is even imported by the command."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.config.errors import ConfigError
from pipelines.distill import main
from pipelines.run_folder.lock import only_driver


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learner.lagg=1", "learner.lagg: unknown key; allowed: batch_size, learning_rate"),
        (
            "experts.local_edit.gpus=1",
            "experts.local_edit.gpus: unknown key; allowed: replicas, autoscaling, num_cpus",
        ),
        ("rollout.autoscaling.most=1", "rollout: autoscaling.most: 1 is less than workers, 2"),
        ("checkpoint.keep_every=6", "checkpoint: keep_every: 6 steps; allowed: a multiple of checkpoint.every, which is 4"),
        ("rollout.steps=100000000", "rollout.steps: Input should be less than or equal to 10000"),
        ("rollout.shift=.inf", "rollout.shift: Input should be less than or equal to 1000"),
        ("rollout.shift=1e-308", "rollout.shift: Input should be greater than or equal to 0.001"),
        ("learner.betas=[2,3]", "learner.betas.0: Input should be less than 1"),
        ("learner.betas=[.nan,0.9]", "learner.betas.0: Input should be"),
        ("learner.learning_rate=.inf", "learner.learning_rate: Input should be a finite number"),
        ("student.alpha=.inf", "student.lora.alpha: Input should be"),
        ("student.rank=1000000000", "student.lora.rank: Input should be less than or equal to 65536"),
        ("numerics.threads=99999999999999999999", "numerics.threads: "),
        ("student.start={type: merge, experts: {local_edit: .nan}}", "experts.local_edit: Input should be a finite number"),
        ("student.start={type: regression, rows: 99999999999999999999}", "rows: "),
        ("run.dir=/dev/null/x", "run.dir: /dev/null/x/tiny cannot be written"),
        ("run.name=" + "x" * 300, "cannot be written"),
        ("experts.local_edit.adapter=" + "x/" * 3000, "experts.local_edit.adapter: "),
        ("rollout.autoscaling.most=0", "rollout.autoscaling.most: Input should be greater than 0 (got 0)"),
        ("student.start.expertt=x", "expertt: unknown key; allowed: type, expert"),
        (
            "learner.ranks=4",
            "learner.ranks: 4 is above the batches that a step may have: 12 samples (learner.batch_size) in batches of 4 "
            "(rollout.group_size); allowed: 1 to 3",
        ),
        (
            "learner.shard=true",
            "learner: shard: true shares the network among ranks, and ranks is 1; allowed: false, or more ranks",
        ),
        ("learner.lag=-1", "learner.lag: Input should be greater than or equal to 0 (got -1)"),
        ("routes.local_edit.weight=-0.5", "routes.local_edit.weight: Input should be greater than or equal to 0 (got -0.5)"),
        (
            "routes.local_edit.expert=nobody",
            "routes.local_edit.expert: unknown expert 'nobody'; allowed: text_to_image, local_edit",
        ),
        ("student.start.expert=nobody", "student.start.expert: unknown expert 'nobody'; allowed: text_to_image, local_edit"),
        ("model.family=sd9", "model: unknown family 'sd9'; allowed: scene"),
        ("model.width=64", "model: width 64 and height None: give both or none"),
        ("model={width: 64, height: 64}", "model: size 64 x 64: scenes are 24 x 24"),
        ("model.dtype=bfloat16", "model: dtype bfloat16: the scene family computes in float32"),
        ("model.dtype=float16", "model.dtype: in float16 most gradients of large images are 0, and a student learns next to"),
        ("numerics.deterministic=maybe", "numerics.deterministic: Input should be a valid boolean"),
        ("numerics.threads=0", "numerics.threads: Input should be greater than 0 (got 0)"),
        ("run.threads=2", "run.threads: unknown key; allowed: name, dir"),
        ("model={family: sd3, path: nowhere}", "model.path: nowhere: no such folder; a path is a local folder or a hub id"),
        ("model.path=nowhere", "model.path: nowhere is no scene model: it has no config.json"),
        ("run.steps=many", "run.steps: Input should be a valid integer"),
        ("run.name=a/b", "run.name: String should match pattern"),
        ("student.rank=4", "experts.local_edit.adapter has rank 8, student.rank is 4: set student.rank=8 student.alpha=16"),
        ("student.rankk=4", "student.lora.rankk: unknown key; allowed: type, rank, alpha, targets, start"),
        ("student={type: full, rank: 4}", "student.full.rank: unknown key; allowed: type, start"),
        (
            "student.type=half",
            "student: Input tag 'half' found using 'type' does not match any of the expected tags: 'lora'",
        ),
        ("student.start={type: adapter, adapter: nowhere}", "student: no such file or folder: nowhere"),
        ("student.start.expert=text_to_image", "student: student.start: expert 'text_to_image' has no adapter to start from"),
        ("learner.num_gpus=1", "num_gpus: the run needs 1 (learner 1 x 1); this machine has 0"),
        ("learner.num_gpus=2", "learner.num_gpus: 2 GPUs for one process, which computes on one of them; allowed: 0 to 1."),
        ("rollout.num_gpus=1.5", "rollout.num_gpus: 1.5 GPUs for one process, which computes on one of them; allowed: 0 to 1."),
        ("experts.local_edit.num_gpus=2", "experts.local_edit.num_gpus: 2 GPUs for one process"),
        ("encoder.num_gpus=8", "encoder.num_gpus: 8 GPUs for one process"),
        ("learner.node_labels={role: a b}", "learner.node_labels.role: String should match pattern"),
        ("rollout.num_cpus=1000", "num_cpus: the run needs 2000.5 (learner 1 x 0.1, rollout 2 x 1000"),
        (
            "experts.local_edit.operator={type: guidance, scale: .nan}",
            "operator.guidance.scale: Input should be a finite number",
        ),
        ("experts.shared={}", "experts.shared: the results of a run use the names base, before, after, shared"),
        (
            "experts.global_edit={placement: shared, checkpoint: x}",
            "experts.global_edit.placement: shared experts are adapters over the base; 'global_edit' has a checkpoint",
        ),
        ("experts.global_edit.placement=somewhere", "experts.global_edit.placement: Input should be 'separate' or 'shared'"),
        ("experts.base={}", "experts.base: the results of a run use the names base, before, after"),
        ("run", "'run': an override is written dotted.key=value"),
        ("run.name.deeper=1", "'run.name.deeper=1': name is 'tiny', which has no keys"),
    ],
)
def test_configuration(refuse, override, expected):
    assert expected in refuse(override)


def test_every_route_at_weight_zero(refuse):
    overrides = [f"routes.{name}.weight=0" for name in ("text_to_image", "local_edit", "global_edit")]
    assert "routes: every route has weight 0" in refuse(*overrides)


def test_routes_whose_weights_overflow(refuse):
    assert "routes: the weights of the routes sum to inf" in refuse(
        "routes.local_edit.weight=1e308", "routes.global_edit.weight=1e308"
    )


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "127.0.0.1:port"])
def test_no_cluster_answers_at_the_address(refuse, address):
    assert refuse("--address", address) == f"error: --address: no Ray cluster answers at {address!r}; it is written HOST:PORT"


def test_missing_configuration(capsys):
    assert main(["nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "error: nowhere.yaml: No such file or directory\n"


@pytest.mark.parametrize(
    ("expert", "operator", "expected"),
    [
        ("local_edit", "{type: negative_prompt, scale: 2}", "no negative_prompt, which experts.local_edit.operator needs"),
        (
            "text_to_image",
            "{type: edit_guidance, image_scale: 1, text_scale: 3}",
            "no source_image, which experts.text_to_image",
        ),
        ("global_edit", "{type: rescale, phi: 1, of: {type: negative_prompt, scale: 2}}", "no negative_prompt"),
    ],
)
def test_an_operator_that_the_routes_rows_cannot_serve(refuse, scene_data, expert, operator, expected):
    line = refuse(f"experts.{expert}.operator={operator}")
    row = f"{scene_data / expert}.parquet row 0: row '{expert}-000000'"
    assert line.startswith(f"error: routes.{expert}.data: {row} has {expected}")


def test_an_operator_named_by_another_experts_operator(refuse):
    line = refuse("experts.global_edit.operator=local_edit", "experts.local_edit.operator={type: negative_prompt, scale: 2}")
    assert line.startswith("error: routes.local_edit.data: ")
    assert "row 0: row 'local_edit-000000' has no negative_prompt" in line


def test_shared_experts_have_one_applications_resources(refuse):
    line = refuse(
        *(f"experts.{name}.placement=shared" for name in ("local_edit", "global_edit")), "experts.global_edit.replicas=2"
    )
    assert "experts.global_edit.replicas: 2, but experts.local_edit has 1; shared experts are one application" in line


def test_shared_experts_are_counted_once(refuse):
    line = refuse(
        *(f"experts.{name}.placement=shared" for name in ("local_edit", "global_edit")),
        *(f"experts.{name}.num_gpus=0.5" for name in ("local_edit", "global_edit")),
    )
    assert "num_gpus: the run needs 0.5 (shared experts 1 x 0.5); this machine has 0" in line


def test_a_lora_cannot_start_as_a_checkpoint(refuse, tiny_models):
    line = refuse(f"experts.local_edit.checkpoint={tiny_models.other_base}")
    assert "student.start: expert 'local_edit' is a full checkpoint; only a student of type full can start from it" in line


def test_checkpoint_that_is_none(config_file, tmp_path, capsys):
    assert main([str(config_file), "--resume", str(tmp_path)]) == 2
    assert "is no complete checkpoint: state.json is missing or damaged" in capsys.readouterr().err


def test_checkpoint_of_other_settings(config_file, capsys):
    assert main([str(config_file), "--reference", "run.steps=4"]) == 0
    capsys.readouterr()
    assert main([str(config_file), "--reference", "learner.lag=1", "query.a=2.0"]) == 2
    error = capsys.readouterr().err
    assert "learner.lag: 0 -> 1" in error
    assert "query.a: 5.0 -> 2.0" in error


def test_dry_run_deploys_nothing(config_file, capsys, tmp_path):
    assert main([str(config_file), "--dry-run"]) == 0
    assert capsys.readouterr().out == f"{config_file} is valid; nothing was deployed\n"
    assert not (tmp_path / "runs").exists()


def test_json_schema_is_current():
    from pipelines.config.run import schema

    assert json.loads(Path("docs/config.schema.json").read_text()) == json.loads(schema()), "run `make schema`"


def test_an_operator_that_evaluation_cannot_ask(refuse):
    """The exam has questions without a source image; without evaluation the route's own rows decide."""
    edit = "experts.local_edit.operator={type: edit_guidance, image_scale: 2, text_scale: 3}"
    error = "experts.local_edit.operator: it wants a source_image in every row, and evaluation asks about rows without one"
    assert error in refuse(edit, "eval.every=2")


def test_a_second_driver_of_a_run(config_file, make_config, capsys):
    folder = make_config().folder
    with only_driver(folder):
        assert main([str(config_file), "--reference"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"run.name: {folder} is written by process {os.getpid()} on {socket.gethostname()} since 20" in line
        assert not folder.exists(), "it left everything as it was"
        with only_driver(folder.with_name("another")):
            pass
    assert main([str(config_file), "--reference", "run.steps=1", "--resume", "never"]) == 0
    with only_driver(folder):
        pass


def test_a_driver_that_was_killed_holds_nothing(tmp_path):
    command = "import sys, pathlib, signal; from pipelines.run_folder.lock import only_driver\n"
    command += "with only_driver(pathlib.Path(sys.argv[1])): print('held', flush=True); signal.pause()"
    holder = subprocess.Popen([sys.executable, "-c", command, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"is written by process {holder.pid} on"), only_driver(tmp_path / "run"):
        pass
    holder.kill()
    holder.wait()
    with only_driver(tmp_path / "run"):
        pass
