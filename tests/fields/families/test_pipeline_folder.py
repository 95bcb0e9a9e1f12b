"""Folders of pipelines: forms that load, and a message for each that does not."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import SIZE

from fields.data.rows import Row
from fields.families.folder import WEIGHTS
from fields.registry import FAMILIES


def test_a_transformer_alone_is_a_checkpoint_too(tiny):
    model = tiny("sd3")
    alone = model.family.load_transformer(model.folder / "transformer")
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), model.network.parameters(), strict=True))


def test_a_sharded_transformer(tiny, tmp_path):
    model = tiny("sd3")
    model.stock.transformer.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = model.family.load_transformer(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.network.parameters(), strict=True))


def test_a_folder_of_another_family(tiny):
    folder = tiny("sd3").folder
    with pytest.raises(
        ValueError, match="holds a StableDiffusion3Pipeline; family flux takes FluxPipeline or FluxKontextPipeline"
    ):
        FAMILIES["flux"](folder).skeleton(folder)


def test_a_transformer_of_another_family(tiny):
    folder = tiny("sd3").folder / "transformer"
    with pytest.raises(ValueError, match="holds a SD3Transformer2DModel; family lumina2 takes Lumina2Transformer2DModel"):
        FAMILIES["lumina2"](folder).skeleton(folder)


def test_a_missing_component(copy):
    folder = copy("sd3")
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(ValueError, match="lacks the component text_encoder_2"):
        FAMILIES["sd3"](folder).skeleton(folder)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_weights_that_were_cut_short(copy, part):
    folder = copy("sd3")
    file = folder / part / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{WEIGHTS} is damaged"):
        FAMILIES["sd3"](folder).load_transformer(folder)


def test_weights_of_another_configuration(copy):
    folder = copy("sd3")
    file = folder / "transformer" / WEIGHTS
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if "norm_out" not in name}, file)
    with pytest.raises(ValueError, match=r"tensors don't fit its config.json: .*norm_out.linear.bias is absent"):
        FAMILIES["sd3"](folder).skeleton(folder)


def test_text_encoders_in_another_format(copy):
    folder = copy("sd3")
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="doesn't load as a StableDiffusion3Pipeline"):
        FAMILIES["sd3"](folder, size=SIZE).encode([Row("u", "t", "a cat")])


def test_a_scheduler_that_is_no_euler_one(copy):
    from diffusers import FlowMatchHeunDiscreteScheduler

    folder = copy("flux")
    FlowMatchHeunDiscreteScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(
        ValueError, match="holds a FlowMatchHeunDiscreteScheduler; family flux takes FlowMatchEulerDiscreteScheduler"
    ):
        FAMILIES["flux"](folder).grid(None, 4)
