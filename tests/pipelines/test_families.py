"""A student of every family, distilled from two experts; its adapter loads in the stock pipeline and changes the image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_pipelines
import torch
from tiny_pipelines import PIPELINES, SIZE

from fields.dataset import encode_png
from fields.families import FAMILIES
from fields.families.pipeline import PipelineFamily
from fields.lora import Adapter, LoraShape, add_lora
from fields.peft_files import write_adapter
from pipelines.config import RunConfig
from pipelines.outcome import Outcome
from runs import distributed, reference

WIDTH, HEIGHT = SIZE
PROMPTS = ("a red cat", "make the dog bright", "a green circle under the blue square", "it")


def bucket(path: Path, with_source: bool) -> Path:
    """Eight rows of two sizes."""
    sides = [(WIDTH, HEIGHT), (HEIGHT, WIDTH)]
    rows: list[dict[str, Any]] = []
    for n in range(8):
        width, height = sides[n % 2]
        texts = {"uid": f"r{n}", "task": "task", "prompt": PROMPTS[n % 4], "negative_prompt": "dark"}
        rows.append({**texts, "width": width, "height": height})
    if with_source:
        for n, row in enumerate(rows):
            image = np.random.default_rng(n).random((3, row["height"], row["width"]), dtype=np.float32)
            row["source_image"] = encode_png(image)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def adapter(name: str, folder: Path, path: Path) -> Path:
    """A random LoRA over the family's base."""
    family = FAMILIES[name](folder)
    shape = LoraShape(4, 4.0, family.default_lora_targets)
    rng = torch.Generator().manual_seed(5)
    parameters = add_lora(family.load_transformer(folder), shape, seed=0)
    write_adapter(path, Adapter(shape, {n: torch.randn(p.shape, generator=rng) * 0.2 for n, p in parameters.items()}))
    return path


def config(name: str, folder: Path, run: str) -> RunConfig:
    """Three steps over `folder`/model: the base under its own guidance, and an adapter."""
    kind = FAMILIES[name]
    assert issubclass(kind, PipelineFamily)
    routes = {"plain": "base_expert", "adapted": "adapted"}
    if kind.source == "optional":
        sources = {"plain": False, "adapted": True}
    else:
        sources = dict.fromkeys(routes, kind.source == "required")
    return RunConfig.model_validate(
        {
            "run": {"name": run, "dir": folder / "runs", "steps": 3},
            "model": {"family": name, "path": folder / "model", "width": WIDTH, "height": HEIGHT},
            "experts": {
                "base_expert": {"operator": {"type": "guidance", "scale": 2.0}, "num_cpus": 0.1},
                "adapted": {"adapter": adapter(name, folder / "model", folder / "adapter"), "num_cpus": 0.1},
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
        from PIL import Image

        arguments["image"] = Image.new("RGB", SIZE, "red")
    return pipeline(**arguments, generator=torch.Generator().manual_seed(0)).images[0]


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


@pytest.mark.parametrize("name", PIPELINES)
def test_a_student_s_adapter_changes_the_stock_pipeline_s_image(trained, name, monkeypatch):
    module = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit.calculate_dimensions"
    monkeypatch.setattr(module, lambda area, ratio: (WIDTH, HEIGHT, None))
    model = trained(name)
    assert model.outcome.steps == 3
    assert any(tensor.abs().max() > 0 for key, tensor in model.outcome.weights.tensors.items() if "lora_B" in key)
    before = image(model.stock)
    checkpoint = model.run.folder / "checkpoints" / "step-000003"
    model.stock.load_lora_weights(checkpoint)
    after = image(model.stock)
    model.stock.unload_lora_weights()
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(image(model.stock), before, atol=1e-5)


@pytest.mark.parametrize("name", ["flux", "z_image"])
def test_a_student_distilled_on_a_cluster_is_the_reference_s(cluster, trained, name):
    """Two routes, two sizes, texts and sources through real services: bit for bit the plain loop's.

    One editor and one family whose texts differ in length; a cluster of every family takes minutes.
    """
    model = trained(name)
    actual = distributed(config(name, model.folder, name.replace("_", "-")))
    assert actual.weights.checksum == model.outcome.weights.checksum


def test_a_student_over_a_bfloat16_base_is_float32(trained):
    model = trained("flux")
    base = model.run.model.model_copy(update={"dtype": "bfloat16"})
    run = model.run.run.model_copy(update={"name": "bfloat16"})
    outcome = reference(model.run.model_copy(update={"model": base, "run": run}))
    assert {tensor.dtype for tensor in outcome.weights.tensors.values()} == {torch.float32}
    assert outcome.weights.checksum != model.outcome.weights.checksum
