"""What a user of real models types, up to the deployment: data prepared, a shipped configuration checked; models are tiny."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import yaml
from tiny_pipelines import PIPELINES, SIZE

from fields.data.images import encode_png
from fields.lora.adapter import Adapter, LoraShape, add_lora
from fields.lora.peft_files import write_adapter
from fields.registry import FAMILIES
from pipelines.distill import main as distill
from pipelines.prepare import main as prepare

CONFIGS = Path("pipelines/configs")
EDITS = ("local_edit", "global_edit")


def rows(folder: Path, with_source: bool) -> Path:
    """A data set that `prepare import` wrote."""
    folder.mkdir()
    entries = [{"uid": f"r{n}", "task": "edit", "prompt": "make the dog bright"} for n in range(3)]
    for entry in entries if with_source else ():
        entry["source_image"] = f"{entry['uid']}.png"
        (folder / entry["source_image"]).write_bytes(encode_png(np.full((3, SIZE[1], SIZE[0]), 0.5, np.float32)))
    (folder / "rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert prepare(["import", "--input", str(folder / "rows.jsonl"), "--output", str(folder / "rows.parquet")]) == 0
    return folder / "rows.parquet"


def overrides(name: str, tmp_path: Path, edits_have_sources: bool) -> list[str]:
    """The configuration's paths and ranks as this machine has them; it has no GPU, and as many CPUs as it has."""
    config = yaml.safe_load((CONFIGS / name).read_text())
    kind, model = config["model"]["family"], tmp_path / "model"
    tiny_pipelines.save(PIPELINES[kind](), model)
    family = FAMILIES[kind](model)
    shape = LoraShape(4, 4.0, family.default_lora_targets)
    parameters = add_lora(family.load_transformer(model), shape, seed=0)
    write_adapter(tmp_path / "adapter", Adapter(shape, {key: tensor.detach() for key, tensor in parameters.items()}))
    plain = rows(tmp_path / "plain", with_source=False)
    edits = rows(tmp_path / "edits", with_source=True) if edits_have_sources else plain
    written = {"model.path": model, "model.width": SIZE[0], "model.height": SIZE[1], "run.dir": tmp_path / "runs"}
    written |= {"student.rank": 4, "student.alpha": 4}
    for route in config["routes"].keys() - set(EDITS):
        written |= {f"routes.{route}.data": edits if family.source == "required" else plain}
    for expert in EDITS:
        written |= {f"experts.{expert}.adapter": tmp_path / "adapter", f"routes.{expert}.data": edits}
    for part in ("encoder", "rollout", "learner", *(f"experts.{expert}" for expert in config["experts"])):
        written |= {f"{part}.num_gpus": 0, f"{part}.num_cpus": 0.1}
    return [f"{key}={value}" for key, value in written.items()]


@pytest.mark.parametrize(
    ("name", "with_sources"),
    [
        ("sd35.yaml", False),
        ("sd35_one_gpu.yaml", False),
        ("sd35_eight_gpus.yaml", False),
        ("flux_kontext.yaml", True),
        ("qwen_image_edit.yaml", True),
    ],
)
def test_a_configuration_of_a_real_model_is_valid_with_the_users_paths(name, with_sources, tmp_path, capsys):
    given = overrides(name, tmp_path, with_sources)
    assert distill([str(CONFIGS / name), *given, "--dry-run"]) == 0
    assert "is valid; nothing was deployed" in capsys.readouterr().out
    assert distill([str(CONFIGS / name), *given, "student.rank=8", "--dry-run"]) == 2
    assert "error: experts.local_edit.adapter has rank 4, student.rank is 8: set student.rank=4" in capsys.readouterr().err
    assert distill([str(CONFIGS / name), *given, "rollout.num_gpus=1", "rollout.workers=1000", "--dry-run"]) == 2
    assert "num_gpus: the run needs 1000 (rollout 1000 x 1)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_sd35_refuses_a_source_image_that_it_would_not_see(tmp_path, capsys):
    assert distill([str(CONFIGS / "sd35.yaml"), *overrides("sd35.yaml", tmp_path, True), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "error: routes.local_edit.data: " in error
    assert "row 'r0' has a source image; family sd3 takes none" in error
