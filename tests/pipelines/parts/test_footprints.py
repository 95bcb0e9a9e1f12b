"""What the planner measures, against the closed forms and against the figures of an independent review."""

import re
from pathlib import Path

import published
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from fields.data.size import Size
from fields.lora.adapter import LoraShape, add_lora, targeted_modules
from fields.memory.cost import Pass, encoding_cost, update_cost
from fields.registry import FAMILIES
from pipelines.config.errors import ConfigError
from pipelines.config.gpus import CONTEXT, GIGABYTE, PLANNED_FOR
from pipelines.config.load import load_config
from pipelines.config.recipe import recipe
from pipelines.parts.fit import choose, fitted, fitted_rollout
from pipelines.parts.footprints import PROCESS, Footprints
from pipelines.parts.run_parts import RunParts
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
    ("model", "family", "rank", "samples", "edits", "recompute", "with_peft", "expected"),
    [
        ("stable-diffusion-3.5-medium", "sd3", 128, 8, False, False, 77.7, 61.3),
        ("stable-diffusion-3.5-medium", "sd3", 128, 8, False, True, 6.2, 5.5),
        ("stable-diffusion-3.5-large", "sd3", 128, 1, False, False, 20.2, 15.5),
        ("FLUX.1-dev", "flux", 64, 1, False, False, 38.4, 27.3),
        ("FLUX.1-Kontext-dev", "flux", 64, 1, True, False, 72.5, 51.3),
        ("FLUX.1-Kontext-dev", "flux", 64, 4, True, True, 19.3, 18.0),
        ("Qwen-Image", "qwen_image", 64, 1, False, False, 38.3, 31.0),
        ("Z-Image", "z_image", 64, 1, False, False, 41.0, 36.7),
        ("FLUX.2-dev", "flux2", 64, 1, False, True, 6.0, 5.45),
    ],
)
def test_activations_of_published_models_at_1024_pixels(
    tmp_path, model, family, rank, samples, edits, recompute, with_peft, expected
):
    """GB at the peak of a forward and backward: with PEFT's adapters, which compute in float32, as an independent review
    measured them, within 10 %; and with adapters that compute in the network's type."""
    networks = FAMILIES[family](published.write(model, tmp_path), torch.bfloat16)
    network, reviewed = networks.blueprint(tmp_path), networks.blueprint(tmp_path)
    shape = LoraShape(rank, float(rank), MEASURED[family])
    for parameter in add_lora(network, shape, seed=0).values():
        parameter.requires_grad_(True)
    exactly = "|".join(map(re.escape, targeted_modules(reviewed, shape.targets)))
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=exactly), reviewed)
    for name, parameter in reviewed.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    for whose, gigabytes, tolerance in ((reviewed, with_peft, 0.1), (network, expected, 0.02)):
        if recompute:
            networks.recompute_activations(whose)
        cost = update_cost(networks, whose, Pass(samples, Size(1024, 1024), edits))
        assert cost.peak_bytes / GIGABYTE == pytest.approx(gigabytes, rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "family"), [("stable-diffusion-3.5-medium", "sd3"), ("FLUX.1-Kontext-dev", "flux"), ("Z-Image", "z_image")]
)
def test_decoding_takes_three_images_of_256_channels(tmp_path, model, family):
    """In the last block of the VAE that these models share in shape, 2 bytes a value; no text takes as much."""
    networks = FAMILIES[family](published.write(model, tmp_path), torch.bfloat16)
    assert encoding_cost(networks, Size(1024, 1024), 0) == pytest.approx(3 * 256 * 1024**2 * 2, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "family", "merge"), [("Qwen-Image", "qwen_image", True), ("FLUX.2-dev", "flux2", False)])
def test_rollout_workers_of_large_models_fit_80_gb_as_auto_chooses(tmp_path, model, family, merge):
    """FLUX.2-dev's 64 GB have no room for another copy of what an adapter changes."""
    written = (
        f"model.path={published.write(model, tmp_path)}",
        f"model.family={family}",
        "student.rank=64",
        "rollout.group_size=4",
    )
    config = fitted_rollout(load_config(SD35, list(written)))
    assert config.rollout.merge is merge
    footprints = Footprints(config)
    assert footprints.rollout(merge).fits("h100")
    assert footprints.rollout(True).fits("h100") is merge


def test_auto_merges_where_the_copies_fit(make_config):
    on_a_gpu = ("rollout.num_gpus=1", "student.rank=1", "student.alpha=1", "student.start={type: base}")
    merged, beside = (Footprints(make_config(*on_a_gpu)).rollout(merge).device for merge in (True, False))
    assert beside < merged

    def chosen(needed: float, *more: str) -> object:
        gpu = f"learner.gpu=toy={needed / PLANNED_FOR / GIGABYTE:.12f}"
        config = fitted(make_config(*on_a_gpu, gpu, *more))
        assert recipe(config)["rollout"]["merge"] is config.rollout.merges
        return config.rollout.merge

    assert chosen(merged + 1) is True
    assert chosen(merged - 1) is False
    assert chosen(merged - 1, "rollout.merge=true") is True
    assert chosen(merged - 1, "student={type: full, start: {type: base}}") is True
    assert recipe(make_config())["rollout"]["merge"] is True, "as of runs before there was `auto`"


@pytest.mark.parametrize(("kind", "scale"), [("int8", 5), ("fp8", 4)])
def test_quantized_weights_are_counted_as_they_are_kept(make_config, kind, scale):
    """A byte for each value of a linear weight and a few for each output, instead of four bytes a value."""
    exact = make_config("rollout.merge=false")
    quantized = make_config("rollout.merge=false", f"model.quantization={kind}", f"experts.local_edit.quantization={kind}")
    network = RunParts(exact).family.blueprint(exact.model.path)
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    saved = sum(3 * weight.numel() - scale * len(weight) for weight in weights)
    before, after = ({one.who: one for one in Footprints(config).all(4, False, False)} for config in (exact, quantized))
    less = {who: before[who].weights - after[who].weights for who in before}
    none = dict.fromkeys(("experts.text_to_image", "experts.global_edit", "encoder", "driver"), 0)
    assert less == {"learner": saved, "rollout": saved, "experts.local_edit": saved} | none
    assert [after[who].host for who in before] == [before[who].host for who in before], "exact weights pass through the host"


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_backward_keeps_the_restored_weights_unless_it_computes_them_again(make_config, kind):
    """Where torchao multiplies by a quantized weight it restores it first, and the backward needs it once more."""
    quantized = Footprints(make_config("rollout.merge=false", f"model.quantization={kind}"))
    exact = Footprints(make_config("rollout.merge=false"))
    network = RunParts(exact.config).family.blueprint(exact.config.model.path)
    reached = ("to_qkv", "to_out", "ff_in", "ff_out")  # by a gradient: of what the modulations see, nothing is trained
    restored = sum(4 * module.weight.numel() for name, module in network.named_modules() if name.rpartition(".")[2] in reached)
    kept, again = (quantized.update(1, how).peak_bytes - exact.update(1, how).peak_bytes for how in (False, True))
    assert kept == pytest.approx(restored, rel=0.15)
    assert again < 0.7 * kept, "one of two blocks"


def test_a_process_that_does_not_fit_names_fewer_bits(make_config):
    def remedies(*overrides: str) -> dict[str, str]:
        config = make_config(*overrides)
        return {one.who: one.remedy for one in Footprints(config).all(1, True, config.rollout.merges)}

    merged = remedies()
    assert (
        merged["learner"] == "learner.micro_batch, a smaller student.rank, or model.quantization=int8 with rollout.merge=false"
    )
    assert merged["rollout"] == "a smaller rollout.group_size, or rollout.merge=false"
    assert merged["experts.local_edit"] == "a smaller rollout.group_size, or experts.local_edit.quantization=int8"
    assert remedies("rollout.merge=false")["rollout"] == "a smaller rollout.group_size, or model.quantization=int8"
    small = remedies("rollout.merge=false", "model.quantization=int8", "experts.local_edit.quantization=fp8")
    assert small["rollout"] == "a smaller rollout.group_size"
    assert small["experts.local_edit"] == "a smaller rollout.group_size"


def test_nf4_is_planned_without_what_makes_it(tmp_path, make_config):
    """Half a byte a value and a float32 scale for every 64: 11.6 GB of Qwen-Image's 40.9."""
    model = published.write("Qwen-Image", tmp_path)
    base = f"family: qwen_image, path: {model}, dtype: bfloat16"
    alike = ("rollout.merge=false", "learner.num_gpus=1", "rollout.num_gpus=1")
    exact, nf4 = (Footprints(make_config(f"model={{{base}, quantization: {kind}}}", *alike)) for kind in ("none", "nf4"))
    network = RunParts(exact.config).family.blueprint(model)
    linear = sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Linear))
    assert exact.learner_fixed()[0] - nf4.learner_fixed()[0] == linear * (2 - 9 / 16)
    assert nf4.base_bytes() == exact.base_bytes()


def test_ranks_share_moments_and_average_and_keep_what_they_exchange(make_config):
    """Twelve samples in groups of four are three gradients, of which each of three ranks gets a third; it sends whole ones."""
    one, three = (Footprints(make_config("learner.num_gpus=1", f"learner.ranks={ranks}")) for ranks in (1, 3))
    alone, shared = (footprints.learner(4, False) for footprints in (one, three))
    trained = alone.kept / 3
    assert (alone.count, shared.count) == (1, 3)
    assert shared.kept == trained * (3 / 3 + 1 + 3 / 3 + 1)
    small = Footprints(make_config("learner.num_gpus=1", "learner.ranks=3", "query={type: uniform, k: 2}")).learner(2, False)
    assert small.kept == trained * (3 / 3 + 1 + 3 * 2 * 2 / 3 + 1), "each query of a sample is a gradient, in two micro-batches"
    sharded = Footprints(make_config("learner.num_gpus=1", "learner.ranks=3", "learner.shard=true")).learner(4, False)
    network = RunParts(one.config).family.blueprint(one.config.model.path)
    block = sum(parameter.numel() for parameter in network.blocks[0].parameters())
    base = sum(parameter.numel() for parameter in network.parameters()) + sum(b.numel() for b in network.buffers())
    assert sharded.weights - shared.weights == pytest.approx(4 * (2 * block - 2 / 3 * base), rel=1e-3)
    assert sharded.host == shared.host, "every rank loads the whole base before it gives the others theirs"
    assert choose(one) == choose(three), "or the number of ranks would order the sums of a gradient"


def test_ranks_that_share_a_full_student_hold_their_part_of_everything(make_config):
    """Twenty bytes of each value are shared: weight, gradient, two moments and average. Two blocks are gathered, and one
    block's gradient is added up; the whole gradient, which an unshared student's backward ends with, is nowhere."""
    full = ("learner.num_gpus=1", "student={type: full}", "learner.batch_size=32")
    two, four = (Footprints(make_config(*full, "learner.shard=true", f"learner.ranks={ranks}")) for ranks in (2, 4))
    network = RunParts(two.config).family.blueprint(two.config.model.path)
    values = sum(parameter.numel() for parameter in network.parameters())
    block = sum(parameter.numel() for parameter in network.blocks[0].parameters())
    buffers = sum(buffer.numel() * buffer.itemsize for buffer in network.buffers())
    half, quarter = two.learner(4, False), four.learner(4, False)
    assert half.weights == 4 * values / 2 + 2 * 4 * block + buffers
    assert half.kept == 4 * 4 * values / 2 + (4 + 4) * block
    assert half.weights + half.kept - quarter.weights - quarter.kept == 20 * values / 4
    unshared = Footprints(make_config(*full)).learner(4, False)
    assert unshared.working - 4 * values < half.working < unshared.working
    assert half.host == PROCESS + two.base_bytes() + 2 * 4 * values


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
