"""What the planner measures, against the closed forms and against the figures of an independent review."""

from pathlib import Path

import published
import pytest
import torch

from fields.lora.adapter import LoraShape, add_lora
from fields.memory.cost import Pass, update_cost
from fields.registry import FAMILIES
from pipelines.config.errors import ConfigError
from pipelines.config.gpus import CONTEXT, GIGABYTE, PLANNED_FOR
from pipelines.config.load import load_config
from pipelines.parts.fit import choose, fitted
from pipelines.parts.footprints import Footprints
from pipelines.plan import main

SD35 = Path("pipelines/configs/sd35.yaml")

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
MEASURED = {  # the modules that the review's adapters changed: fewer than some families' are by default
    "sd3": FAMILIES["sd3"].default_lora_targets,
    "flux": tuple(name for name in FAMILIES["flux"].default_lora_targets if name != "proj_mlp"),
    "flux2": (*ATTENTION, "to_qkv_mlp_proj"),
    "qwen_image": ATTENTION,
    "z_image": ATTENTION,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "family", "rank", "samples", "edits", "recompute", "expected"),
    [
        ("stable-diffusion-3.5-medium", "sd3", 128, 8, False, False, 77.7),
        ("stable-diffusion-3.5-medium", "sd3", 128, 8, False, True, 6.2),
        ("stable-diffusion-3.5-large", "sd3", 128, 1, False, False, 20.2),
        ("FLUX.1-dev", "flux", 64, 1, False, False, 38.4),
        ("FLUX.1-Kontext-dev", "flux", 64, 1, True, False, 72.5),
        ("FLUX.1-Kontext-dev", "flux", 64, 4, True, True, 19.3),
        ("Qwen-Image", "qwen_image", 64, 1, False, False, 38.3),
        ("Z-Image", "z_image", 64, 1, False, False, 41.0),
        ("FLUX.2-dev", "flux2", 64, 1, False, True, 6.0),
    ],
)
def test_activations_of_published_models_at_1024_pixels(tmp_path, model, family, rank, samples, edits, recompute, expected):
    """GB at the peak of a forward and backward, as an independent review measured them; within 10 %."""
    networks = FAMILIES[family](published.write(model, tmp_path), torch.bfloat16)
    network = networks.blueprint(tmp_path)
    for parameter in add_lora(network, LoraShape(rank, float(rank), MEASURED[family]), seed=0).values():
        parameter.requires_grad_(True)
    if recompute:
        networks.recompute_activations(network)
    assert update_cost(networks, network, Pass(samples, (1024, 1024), edits)).peak_bytes / GIGABYTE == pytest.approx(
        expected, rel=0.1
    )


@pytest.mark.slow
def test_sd35_fits_as_it_is_shipped(tmp_path):
    """Its group of 8 would need 83.8 GB: two micro-batches of 4 have room, and nothing has to be computed again."""
    model = published.write("stable-diffusion-3.5-medium", tmp_path)
    config = load_config(SD35, [f"model.path={model}"])
    assert choose(Footprints(config)) == (4, False)
    assert main([str(SD35), f"model.path={model}"]) == 0


def test_without_a_gpu_auto_stays(make_config):
    config = make_config()
    assert fitted(config) is config
    assert (config.learner.optimization().micro_batch, config.learner.optimization().recompute) == (None, False)


@pytest.mark.parametrize(("working", "chosen"), [(10_000_000, (4, False)), (700_000, (2, False)), (300_000, (1, True))])
def test_auto_keeps_activations_where_they_fit(make_config, working, chosen):
    """One sample of the tiny base takes 333 kB, every other one 313 kB; computed again they are 243 kB and 188 kB."""
    fixed = sum(Footprints(make_config("learner.num_gpus=1")).learner_fixed())
    gpu = f"learner.gpu=toy={(fixed + working + CONTEXT) / PLANNED_FOR / GIGABYTE:.12f}"
    assert choose(Footprints(make_config("learner.num_gpus=1", gpu, "rollout.group_size=4"))) == chosen
    settled = fitted(make_config("learner.num_gpus=1", gpu, "rollout.group_size=4")).learner.optimization()
    assert (settled.micro_batch, settled.recompute) == chosen


def test_a_learner_that_fits_nowhere_says_what_it_needs(make_config):
    config = make_config("learner.num_gpus=1", "learner.gpu=toy=0.63")
    with pytest.raises(ConfigError, match=r"learner\.gpu: toy=0\.63 has 0\.6 GB.* the learner needs \d"):
        fitted(config)


def test_a_micro_batch_above_the_group_is_refused(make_config):
    with pytest.raises(ConfigError, match=r"learner\.micro_batch: 9 is above rollout\.group_size; allowed: 1 to 4"):
        fitted(make_config("learner.micro_batch=9", "rollout.group_size=4"))


@pytest.mark.parametrize(("gpu", "said"), [("h1000", "unknown GPU 'h1000'; allowed: h100"), ("x=-3", "its memory in GB")])
def test_an_unknown_gpu_is_refused(capsys, gpu, said):
    assert main(["pipelines/configs/scene.yaml", "--gpu", gpu]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: learner.gpu: "), "no line of the file, which doesn't say it"
    assert error.count("\n") == 1
