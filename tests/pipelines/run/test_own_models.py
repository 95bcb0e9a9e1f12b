"""Experts of another size, or of another family, than the student's, through real services."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_pipelines
import torch
from random_lora import write_random_lora
from safetensors.torch import load_file, save_file
from tiny_parts import clip, euler, plain_vae, t5, tokenizer, transformer
from tiny_pipelines import SIZE

from fields.data.images import encode_png
from fields.scene.family import save_transformer
from fields.scene.transformer import SceneTransformer
from pipelines.cluster.scaling import wanted_numbers
from pipelines.config.errors import ConfigError
from pipelines.config.own_models import other_models
from pipelines.config.run import RunConfig
from pipelines.parts.check_files import checked_parts
from pipelines.parts.needs import Needs
from runs import distributed, reference, trained_ids

WIDTH, HEIGHT = SIZE.image
PROMPTS = ("a red cat", "make the dog bright", "a green circle under the blue square", "it")


def sd3_large() -> Any:
    """Deeper and wider than the tiny one, and its T5 has another width."""
    from diffusers import StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=transformer(
            "SD3Transformer2DModel", sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
            attention_head_dim=8, num_attention_heads=6, caption_projection_dim=48, joint_attention_dim=96,
            pooled_projection_dim=64, pos_embed_max_size=16, qk_norm="rms_norm",
        ),
        scheduler=euler(shift=2.0), vae=plain_vae(4),
        text_encoder=clip(32, 32, 1), tokenizer=tokenizer(), text_encoder_2=clip(32, 32, 2), tokenizer_2=tokenizer(),
        text_encoder_3=t5(96), tokenizer_3=tokenizer(512),
    )  # fmt: skip


PIPELINES = {**tiny_pipelines.PIPELINES, "sd3_large": sd3_large}
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder of a pipeline, by name."""

    @cache
    def saved(name: str) -> Path:
        path = tmp_path_factory.mktemp(name) / "model"
        tiny_pipelines.save(PIPELINES[name](), path)
        return path

    return saved


def rows(path: Path, source: bool = False) -> Path:
    """Eight of two sizes."""
    sides = [(WIDTH, HEIGHT), (HEIGHT, WIDTH)]
    content: list[dict[str, Any]] = [
        {"uid": f"r{n}", "task": "task", "prompt": PROMPTS[n % 4], "width": sides[n % 2][0], "height": sides[n % 2][1]}
        for n in range(8)
    ]
    for n, row in enumerate(content if source else ()):
        image = np.random.default_rng(n).random((3, row["height"], row["width"]), dtype=np.float32)
        row["source_image"] = encode_png(image)
    pq.write_table(pa.Table.from_pylist(content), path)
    return path


MakeRun = Callable[..., RunConfig]


@pytest.fixture
def make_run(folder: Folder, tmp_path: Path) -> MakeRun:
    """Three steps of a student of one family: a teacher of another model with an adapter and guidance, and a mix of it with the
    student's own base."""

    def make(student: str, teacher: str, run: str = "run", own: Path | None = None, **sections: Any) -> RunConfig:
        family = teacher.removesuffix("_large")
        model = {"family": family, "path": own or folder(teacher)}
        lora = tmp_path / f"lora-{teacher}"
        if not lora.is_dir():
            write_random_lora(family, folder(teacher), lora)
        service = {"num_cpus": 0.1}
        mix = {"type": "mix", "parts": [{"of": "teacher", "weight": 0.5}, {"of": "base_expert", "weight": 0.5}]}
        content = {
            "run": {"name": run, "dir": tmp_path / "runs", "steps": 3},
            "model": {"family": student, "path": folder(student), "width": WIDTH, "height": HEIGHT},
            "experts": {
                "base_expert": service,
                "teacher": {"model": model, "adapter": lora, "operator": {"type": "guidance", "scale": 2.0}, **service},
                "both": {"operator": mix, **service},
            },
            "routes": {name: {"expert": name, "data": rows(tmp_path / f"{name}.parquet")} for name in ("teacher", "both")},
            "encoder": {"num_cpus": 0.1},
            "student": {"rank": 4, "alpha": 4},
            "rollout": {"workers": 1, "steps": 4, "group_size": 3, "num_cpus": 0.1},
            "learner": {"batch_size": 6, "learning_rate": 0.01, "lag": 1, "num_cpus": 0.1},
            "eval": {"every": 0},
        }
        return RunConfig.model_validate(content | sections)

    return make


def test_a_larger_scene_model_teaches_a_small_one(cluster, make_config, tmp_path: Path):
    """Of text-to-image, beside experts of the student's own model; who takes the exam is asked with what it reads."""
    torch.manual_seed(1)
    large = SceneTransformer(width=64, depth=3, heads=4)
    for parameter in large.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.15)
    save_transformer(large, tmp_path / "large")
    settings = [f"experts.text_to_image.model={{family: scene, path: {tmp_path / 'large'}}}", "run.steps=4", "eval.every=4"]
    expected = reference(make_config("run.name=reference", *settings))
    config = make_config("run.name=large", *settings)
    outcome = distributed(config)
    assert outcome is not None
    assert outcome.weights.checksum == expected.weights.checksum
    assert {model: exam.skills for model, exam in outcome.results.items()} == {
        model: exam.skills for model, exam in expected.results.items()
    }
    assert sorted(trained_ids(config.folder)) == list(range(4 * 12))
    own = reference(make_config("run.name=own", "run.steps=4"))
    assert own.weights.checksum != outcome.weights.checksum


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "teacher", "sections"),
    [
        ("lumina2", "flux", {}),  # text of another encoder, packed states, and time the other way round
        ("sd3", "sd3_large", {}),
        ("z_image", "flux", {}),
        ("sd3", "sd3_large", {"state": {"type": "expert_rollout"}, "query": {"type": "uniform"}}),
    ],
)
def test_others_teach_others(cluster, make_run: MakeRun, student: str, teacher: str, sections: dict[str, Any]):
    run = make_run(student, teacher, **sections)
    expected = reference(make_run(student, teacher, "reference", **sections))
    outcome = distributed(run)
    assert outcome is not None
    assert outcome.weights.checksum == expected.weights.checksum
    assert sorted(trained_ids(run.folder)) == list(range(18))
    learned = sum(float(tensor.square().sum()) for key, tensor in expected.weights.tensors.items() if "lora_B" in key) ** 0.5
    assert learned > 0.1


def test_an_expert_that_writes_the_run_s_model_is_of_the_run_s(make_run: MakeRun):
    same = make_run("sd3", "sd3")
    assert other_models(same) == {}
    assert list(same.services) == ["base_expert", "teacher", "both", "encoder"]
    other = make_run("sd3", "sd3_large")
    (model,) = other_models(other)
    assert list(other.services) == ["base_expert", "teacher", "both", "encoder", f"encoder-{model}"]
    assert wanted_numbers(other, [f"encoder-{model}=2"]) == {f"encoder-{model}": 2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("scale", "scaling_factor 0.5, the run's model has 0.4"),
        ("weights", "differ from those in"),
        ("integers", "differ from those in"),
        ("type", None),  # another type of the same numbers
    ],
)
def test_another_latent_space_is_refused(make_run: MakeRun, folder: Folder, tmp_path: Path, change: str, said: str | None):
    other = shutil.copytree(folder("flux"), tmp_path / "other")
    config, weights = other / "vae" / "config.json", other / "vae" / "diffusion_pytorch_model.safetensors"
    if change == "scale":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.5}))
    else:
        tensors = load_file(weights)
        if change == "integers":
            tensors["encoder.conv_in.weight"] = tensors["encoder.conv_in.weight"].to(torch.int8)
        elif change == "weights":
            tensors["encoder.conv_in.weight"][0, 0, 0, 0] += 1e-3
            tensors["decoder.conv_in.weight"] *= 2  # which says nothing of what a state is
        else:
            tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
        save_file(tensors, weights)
    run = make_run("lumina2", "flux", own=other)
    if said is None:
        assert checked_parts(run).rows == {"teacher": 8, "both": 8}
        return
    with pytest.raises(ConfigError, match=r"experts\.teacher\.model: its latent space is another: ") as refused:
        checked_parts(run)
    assert said in str(refused.value)
    assert ("1 tensors" in str(refused.value)) == (change in ("weights", "integers"))


def test_a_configuration_that_lacks_a_key_is_refused(make_run: MakeRun, folder: Folder, tmp_path: Path):
    other = shutil.copytree(folder("flux"), tmp_path / "other")
    config = other / "vae" / "config.json"
    config.write_text(json.dumps({key: v for key, v in json.loads(config.read_text()).items() if key != "block_out_channels"}))
    with pytest.raises(ConfigError, match=r"experts\.teacher\.model: .*vae/config\.json doesn't say block_out_channels$"):
        checked_parts(make_run("lumina2", "flux", own=other))


def test_a_row_that_the_teacher_cannot_read_is_refused(make_run: MakeRun, tmp_path: Path):
    """A source image, by a text-to-image model whose student edits."""
    run = make_run("z_image_omni", "z_image")
    rows(tmp_path / "teacher.parquet", source=True)
    with pytest.raises(ConfigError, match=r"routes.teacher.data, which experts.teacher reads: .* family z_image takes none"):
        checked_parts(run)


def test_what_the_second_model_needs_is_counted(make_run: MakeRun):
    """Its network where it answers, its encoder beside the first, and its conditions on the way."""
    alone, with_other = (Needs.of(make_run("sd3", teacher)) for teacher in ("sd3", "sd3_large"))
    (model,) = other_models(make_run("sd3", "sd3_large"))
    hosts = [{one.who: one for one in needs.footprints} for needs in (alone, with_other)]
    assert hosts[0].keys() | {f"encoder-{model}"} == hosts[1].keys()
    assert hosts[1]["experts.teacher"].weights > 1.5 * hosts[0]["experts.teacher"].weights
    assert hosts[1]["experts.base_expert"].weights == hosts[0]["experts.base_expert"].weights
    assert with_other.sample_bytes - alone.sample_bytes == 4 * (333 * 96 + 64), "its text and its pooled text, float32"
    assert with_other.expert_flops["teacher"] > 1.5 * alone.expert_flops["teacher"]
    assert with_other.expert_flops["base_expert"] == alone.expert_flops["base_expert"]
