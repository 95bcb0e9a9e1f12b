"""A student of every family, distilled from two services; its adapter loads in the stock pipeline and changes the image."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_pipelines
import torch
from PIL import Image
from random_lora import write_random_lora
from tiny_pipelines import PIPELINES, SIZE

from fields.data.bucket import Bucket
from fields.data.images import decode_image, encode_png, to_bytes
from fields.data.size import Size
from fields.families.guidance import DistilledGuidance, LengthKept
from fields.families.pipeline import PipelineFamily
from fields.method.plan import Stream, noise
from fields.method.rollout import clean
from fields.method.solver import Euler
from fields.operators import Guidance, Network
from fields.registry import FAMILIES
from pipelines.config.errors import ConfigError
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig
from pipelines.generate import main as generate
from pipelines.parts.check_files import checked_parts
from pipelines.parts.run_parts import RunParts
from pipelines.run_folder.outcome import Outcome
from runs import distributed, reference

WIDTH, HEIGHT = SIZE.image
PROMPTS = ("a red cat", "make the dog bright", "a green circle under the blue square", "it")


def bucket(path: Path, with_source: bool) -> Path:
    """Eight rows of two sizes."""
    sides = [(WIDTH, HEIGHT), (HEIGHT, WIDTH)]
    rows: list[dict[str, Any]] = []
    for n in range(8):
        width, height = sides[n % 2]
        texts = {"uid": f"r{n}", "task": "task", "prompt": PROMPTS[n % 4], "negative_prompt": "dark"}
        rows.append({**texts, "width": width, "height": height})
    for n, row in enumerate(rows):
        rng = np.random.default_rng(n)
        for column in ("source_image", "target_image") if with_source else ("target_image",):
            row[column] = encode_png(rng.random((3, row["height"], row["width"]), dtype=np.float32))
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def config(name: str, folder: Path, run: str, placement: str = "separate") -> RunConfig:
    """Three steps over `folder`/model: the base under its own guidance, and an adapter; editors see sources on one route."""
    kind = FAMILIES[name]
    assert issubclass(kind, PipelineFamily)
    routes = {"plain": "base_expert", "adapted": "adapted"}
    if kind.source == "optional":
        sources = {"plain": False, "adapted": True}
    else:
        sources = dict.fromkeys(routes, kind.source == "required")
    service = {"num_cpus": 0.1, "placement": placement}
    return RunConfig.model_validate(
        {
            "run": {"name": run, "dir": folder / "runs", "steps": 3},
            "model": {"family": name, "path": folder / "model", "width": WIDTH, "height": HEIGHT, "frames": 1},
            "experts": {
                "base_expert": {"operator": {"type": "guidance", "scale": 2.0}, **service},
                "adapted": {"adapter": write_random_lora(name, folder / "model", folder / "adapter"), **service},
            },
            "routes": {
                route: {"expert": expert, "data": bucket(folder / f"{route}.parquet", sources[route])}
                for route, expert in routes.items()
            },
            "encoder": {"num_cpus": 0.1},
            "student": {"rank": 4, "alpha": 4},
            "rollout": {"workers": 1, "steps": 4, "group_size": 3, "num_cpus": 0.1},
            "learner": {"batch_size": 6, "learning_rate": 0.01, "lag": 1, "num_cpus": 0.1},
            "eval": {"every": 0},
        }
    )


def image(pipeline: Any) -> np.ndarray:
    family = type(pipeline).__name__
    arguments = {"prompt": "a red cat", "height": HEIGHT, "width": WIDTH, "num_inference_steps": 2, "output_type": "np"}
    if family == "SanaPipeline":
        arguments["use_resolution_binning"] = False
    if family == "QwenImageEditPipeline":
        arguments["image"] = Image.new("RGB", SIZE.image, "red")
    generator = torch.Generator().manual_seed(0)
    if family == "WanPipeline":
        return pipeline(**arguments, num_frames=1, generator=generator).frames[0, 0]
    return pipeline(**arguments, generator=generator).images[0]


@dataclass(frozen=True)
class Trained:
    """A stock pipeline, its folder, and the plain loop's run over it."""

    stock: Any
    folder: Path
    run: RunConfig
    outcome: Outcome


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    @cache
    def train(name: str) -> Trained:
        folder = tmp_path_factory.mktemp(name)
        stock = tiny_pipelines.save(PIPELINES[name](), folder / "model")
        run = config(name, folder, "reference")
        return Trained(stock, folder, run, reference(run))

    return train


SEPARATE = ("flux", "z_image")  # an editor, and a family whose texts differ in length


@pytest.mark.slow  # each is distilled by the plain loop below, and a scene student on a cluster in test_distributed.py
@pytest.mark.parametrize("name", list(PIPELINES))
def test_a_student_distilled_on_a_cluster_changes_the_stock_pipeline_s_image(cluster, trained, name, monkeypatch):
    """Two routes, two sizes, texts and sources through real services, and the checkpoint as its user loads it.

    Separate experts give the plain loop's student bit for bit. Those that share a base sum in another order, and save a
    process: half of what a family costs here are the imports of each.
    """
    module = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit.calculate_dimensions"
    monkeypatch.setattr(module, lambda area, ratio: (WIDTH, HEIGHT, None))
    model = trained(name)
    run = config(name, model.folder, name.replace("_", "-"), "separate" if name in SEPARATE else "shared")
    student = distributed(run).weights
    if name in SEPARATE:
        assert student.checksum == model.outcome.weights.checksum
    expected = model.outcome.weights.tensors
    learned = norm(tensor for key, tensor in expected.items() if "lora_B" in key)  # which starts as 0
    assert learned > 0.1
    assert norm(tensor - expected[key] for key, tensor in student.tensors.items()) < 1e-3 * learned
    before = image(model.stock)
    model.stock.load_lora_weights(run.folder / "checkpoints" / "step-000003")
    after = image(model.stock)
    model.stock.unload_lora_weights()
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(image(model.stock), before, atol=1e-5)


def norm(tensors: Iterable[torch.Tensor]) -> float:
    return float(sum(tensor.square().sum() for tensor in tensors)) ** 0.5


def with_two_sources(path: Path) -> None:
    """Every row of a bucket gets a second source image, turned upside down."""
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        first = row.pop("source_image")
        row["source_images"] = [first, encode_png(np.ascontiguousarray(decode_image(first, row["uid"])[:, ::-1]))]
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.slow  # tests/fields/families/test_stock.py compares each family with its pipeline, for one source and three
@pytest.mark.parametrize("name", ["flux2", "z_image_omni"])
def test_edits_with_several_source_images_through_services_are_the_reference(cluster, trained, name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(trained(name).folder / "model", folder / "model")
    run, alone = config(name, folder, f"{name.replace('_', '-')}-two"), config(name, folder, "reference")
    with_two_sources(folder / "adapted.parquet")
    expected = reference(alone).weights.checksum
    assert distributed(run).weights.checksum == expected
    assert expected != trained(name).outcome.weights.checksum


def test_a_student_over_a_bfloat16_base_is_float32(trained):
    model = trained("flux")
    base = model.run.model.model_copy(update={"dtype": "bfloat16"})
    run = model.run.run.model_copy(update={"name": "bfloat16"})
    outcome = reference(model.run.model_copy(update={"model": base, "run": run}))
    assert {tensor.dtype for tensor in outcome.weights.tensors.values()} == {torch.float32}
    assert outcome.weights.checksum != model.outcome.weights.checksum


def changed(model: Trained, name: str, /, **sections: Any) -> RunConfig:
    """The run with other settings and another name; what a preset fills is left to it."""
    filled = {"state", "query", "routing", "objective"}
    content = model.run.model_dump(mode="json", exclude_unset=True, exclude=filled)
    return RunConfig.model_validate({**content, **sections, "run": {**content["run"], "name": name}})


@pytest.mark.slow
def test_quantized_as_diffusers_loads_it_a_distributed_run_equals_the_reference(cluster, trained):
    """`test_quantized_runs.py` has the quick one, of scenes."""
    model = trained("sd3")
    content = model.run.model_dump(mode="json", exclude_unset=True)
    experts = {name: {**expert, "quantization": "int8"} for name, expert in content["experts"].items()}
    quantized = {
        "model": {**content["model"], "quantization": "fp8"},
        "experts": experts,
        "rollout": {**content["rollout"], "merge": False},
    }
    expected = reference(changed(model, "quantized-reference", **quantized)).weights
    assert distributed(changed(model, "quantized", **quantized)).weights.checksum == expected.checksum
    assert expected.checksum != model.outcome.weights.checksum


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_over_a_network_of_diffusers_equal_the_reference(cluster, trained, ranks):
    """With micro-batches and recomputed blocks; `test_learner_ranks.py` has the quick ones, of scenes."""
    model = trained("sd3")
    content = model.run.model_dump(mode="json", exclude_unset=True)
    learner = {**content["learner"], "batch_size": 9, "micro_batch": 2, "recompute": "always"}
    expected = reference(changed(model, f"alone-{ranks}", learner=learner)).weights
    student = distributed(changed(model, f"ranks-{ranks}", learner={**learner, "ranks": ranks})).weights
    assert student.checksum == expected.checksum


@pytest.mark.parametrize(
    ("name", "preset"), [("qwen_image", "joint_sft"), ("z_image", "flowopd"), ("flux", "offpolicy"), ("sana", "diffusionopd")]
)
def test_other_methods_teach_another_student(trained, name, preset):
    """Target images through the VAE, stochastic rollouts and dense queries, on the grid of each row's size."""
    outcome = reference(changed(trained(name), preset, preset=preset))
    assert outcome.steps == 3
    assert outcome.weights.checksum != trained(name).outcome.weights.checksum


def test_an_expert_is_guided_as_its_own_pipeline_does(trained):
    expression = RunParts(trained("qwen_image").run).experts.expression("base_expert")
    assert isinstance(expression, LengthKept)
    assert expression.of == Guidance(Network("base_expert"), 2.0)
    told = RunParts(trained("flux").run).experts.expression("base_expert")
    assert told == DistilledGuidance(Network("base_expert"), 2.0)


def test_a_told_guidance_of_an_interval_is_refused_with_its_key(trained):
    operator = {"type": "guidance", "scale": 2.0, "interval": [0.2, 0.5]}
    experts = trained("flux").run.model_dump(mode="json", exclude_unset=True)["experts"]
    experts["base_expert"]["operator"] = operator
    with pytest.raises(ConfigError, match=r"experts.base_expert.operator: interval .* family flux takes one guidance scale"):
        checked_parts(changed(trained("flux"), "told", experts=experts))


def test_grids_show_every_size_in_its_own_shape(trained):
    outcome = reference(changed(trained("z_image"), "grids", eval={"every": 3, "samples": 4}))
    shapes = [np.shape(images) for images in outcome.results[AFTER].answers]
    assert shapes == [(2, 3, HEIGHT, WIDTH), (2, 3, WIDTH, HEIGHT)] * 2
    assert outcome.results.keys() == {BASE, BEFORE, AFTER, "base_expert", "adapted"}


def test_a_regression_merge_of_routes_with_two_sizes(trained):
    student = {"rank": 4, "alpha": 4, "start": {"type": "regression", "rows": 3}}
    start = RunParts(changed(trained("sana"), "merged", student=student)).start_tensors()
    assert start is not None
    assert all(bool(tensor.isfinite().all()) for tensor in start.values())


def test_generation_is_in_the_rows_size_on_the_models_own_grid(trained, tmp_path):
    model = trained("qwen_image")
    prompts = model.run.routes["plain"].data
    arguments = ["--model", model.folder / "model", "--family", "qwen_image", "--prompts", prompts, "--steps", 3, "--limit", 2]
    for out, more in (("plain", []), ("guided", ["--guidance", 3])):
        assert generate([str(argument) for argument in (*arguments, "--out", tmp_path / out, *more)]) == 0
    plain, guided = ([Image.open(tmp_path / out / f"{n:05d}-0.png") for n in range(2)] for out in ("plain", "guided"))
    assert [picture.size for picture in plain] == [(WIDTH, HEIGHT), (HEIGHT, WIDTH)]
    family = RunParts(model.run).family
    row = Bucket(prompts)[1]
    condition, size = family.encode([row]), Size(HEIGHT, WIDTH)
    x_T = noise(0, [1000], family.latent_shape(size), Stream.QUESTION_NOISE)
    velocity = partial(family.velocity, family.load_transformer(model.folder / "model"))
    with torch.no_grad():
        (expected,) = family.decode(clean(velocity, x_T, family.grid(size, 3), condition, Euler()))
    assert np.abs(np.asarray(plain[1], dtype=int) - to_bytes(expected).astype(int)).max() <= 1
    assert np.abs(np.asarray(plain[0], dtype=int) - np.asarray(guided[0], dtype=int)).max() > 1
