"""What a run says about its bits: where devices differ, and where none are promised."""

import json
from collections.abc import Iterator

import pytest
import torch
from rich.console import Console

from fields.carriers import Condition
from fields.numerics import Numerics
from fields.scene import family as module
from pipelines.config.errors import ConfigError
from pipelines.config.recipe import recipe, recipe_differences, recorded_ranks
from pipelines.distill import main
from pipelines.parts.run_parts import RunParts
from pipelines.run.launch import Options, reserve_cluster
from pipelines.run.origin import Origin
from pipelines.run.promise import device_warnings, rank_warnings
from pipelines.run_folder.state import read_run
from pipelines.watch.screen import warnings
from runs import reference

H100, A100 = "cuda: NVIDIA H100 80GB HBM3", "cuda: NVIDIA A100-SXM4-80GB"
NO_PROMISE = "the same seed does not give the same bits (numerics.deterministic: false)"


@pytest.fixture
def _settled_again() -> Iterator[None]:
    yield
    Numerics().settle()


def test_one_kind_and_model_is_nothing_to_warn_of():
    assert device_warnings(H100, {"run-encoder": H100, "run-expert": "cpu"}, Origin()) == []
    assert device_warnings("cpu", {"run-encoder": H100}, Origin(step=4, device="cpu")) == []


def test_another_model_of_gpu_is_warned_of_by_its_application(tmp_path):
    origin = Origin(step=4, checkpoint=tmp_path, device=A100)
    assert device_warnings(H100, {"run-encoder": H100, "run-expert": A100}, origin) == [
        f"warning: {tmp_path} was made on {A100}, and this is {H100}: the last bits may differ",
        f"warning: run-expert computes on {A100}, the learner on {H100}: the last bits may differ",
    ]


def test_a_run_that_continues_on_another_device_says_so_and_goes_on(config_file, make_config, capsys):
    command = [str(config_file), "--reference"]
    assert main([*command, "run.steps=4"]) == 0
    folder = make_config().folder
    state = folder / "checkpoints" / "step-000004" / "state.json"
    content = json.loads(state.read_text())
    assert content["device"] == "cpu"
    assert "was made on" not in capsys.readouterr().out
    state.write_text(json.dumps(content | {"device": H100}))
    assert main(command) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"was made on {H100}, and this is cpu: the last bits may differ" in told
    undisturbed = reference(make_config("run.name=undisturbed"))
    assert json.loads((folder / "summary.json").read_text())["weights_sha256"] == undisturbed.weights.checksum


@pytest.mark.usefixtures("_settled_again")
def test_a_run_without_the_promise_says_so_at_its_start_on_the_screen_and_in_the_report(config_file, make_config, capsys):
    free = "numerics.deterministic=false"
    assert main([str(config_file), "--reference", free]) == 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert f"warning: {NO_PROMISE}" in " ".join(capsys.readouterr().out.split())
    folder = make_config().folder
    assert NO_PROMISE in (folder / "report.html").read_text()
    assert warnings(read_run(folder, 0.0), None).count(NO_PROMISE) == 1
    assert main([str(config_file), "--reference"]) == 2
    assert "was written with other settings: numerics.deterministic: False -> True" in capsys.readouterr().err


def test_with_the_promise_nothing_is_warned_of(config_file, make_config, capsys):
    assert main([str(config_file), "--reference"]) == 0
    assert "warning" not in capsys.readouterr().out
    assert "the same seed gives the same bits, on one kind of device" in (make_config().folder / "report.html").read_text()


def test_numerics_are_part_of_the_recipe(make_config):
    changed = recipe(make_config("numerics.deterministic=false", "numerics.threads=2"))
    assert recipe_differences(changed, recipe(make_config()), 8) == [
        "numerics.deterministic: True -> False",
        "numerics.threads: 1 -> 2",
    ]


def test_ranks_that_share_a_full_student_are_told_and_never_refused(make_config, tmp_path):
    full = ("student={type: full}", "learner.shard=true", "learner.batch_size=32")
    two, three = (recipe(make_config(*full, f"learner.ranks={ranks}")) for ranks in (2, 3))
    alone, lora = recipe(make_config("student={type: full}", "learner.batch_size=32")), make_config("learner.ranks=2")
    assert (recorded_ranks(two), recorded_ranks(three), recorded_ranks(alone), recorded_ranks(recipe(lora))) == (2, 3, 1, 1)
    for now, saved in ((two, three), (alone, two), (two, alone)):
        assert recipe_differences(now, saved, 8) == []
    changed = recipe(make_config(*full, "learner.ranks=3", "learner.clip=7"))
    assert recipe_differences(changed, two, 8) == ["learner.clip: 1.0 -> 7.0"]
    assert rank_warnings(1, Origin()) == []
    said = "the ranks share the student, so learner.ranks=3 orders its sums: another number has other last bits"
    assert rank_warnings(3, Origin(step=4, checkpoint=tmp_path, ranks=3)) == [said]
    assert rank_warnings(3, Origin(step=4, checkpoint=tmp_path, ranks=2)) == [
        said,
        f"warning: {tmp_path} has the sums of 2 ranks, and this run those of 3: the last bits may differ",
    ]


def test_the_reference_loop_asks_for_one_process_and_at_most_one_gpu(make_config):
    options, console = Options(reference=True), Console()
    assert reserve_cluster(RunParts(make_config("rollout.workers=999", "learner.num_cpus=500")), options, console) is None
    spread = make_config("rollout.num_gpus=1", "rollout.workers=4", "learner.num_gpus=1", "encoder.num_gpus=0.5")
    if torch.cuda.is_available():
        assert reserve_cluster(RunParts(spread), options, console) is None
    else:
        with pytest.raises(ConfigError, match=r"num_gpus: the run needs 1 \(the reference loop 1 x 1\); this machine has 0"):
            reserve_cluster(RunParts(spread), options, console)


def test_the_reference_loop_encodes_where_the_service_does_and_gives_the_same(make_config, monkeypatch):
    """The scene family only knows its device, and computes on the CPU: so a GPU can be asked for without one."""
    expected, devices = reference(make_config("run.steps=2")), set[str]()

    class Recording(module.SceneFamily):
        def encode(self, rows) -> Condition:
            devices.add(self.device.type)
            return super().encode(rows)

    monkeypatch.setattr(module, "SceneFamily", Recording)
    found = reference(make_config("run.steps=2", "run.name=elsewhere", "encoder.num_gpus=1"))
    assert devices == {"cuda"}
    assert found.weights.checksum == expected.weights.checksum
