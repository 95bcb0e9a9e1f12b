"""The modules that a family's adapters change by default, against those that PEFT finds for the scripts they are taken from."""

import pytest
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from tiny_pipelines import PIPELINES
from torch import nn

from fields.lora.adapter import Adapter, LoraShape, adapted_modules, add_lora
from fields.lora.formats import write_diffusers
from fields.lora.peft_files import write_adapter

ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
JOINT = ("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")
WRITTEN = {  # in worldbench/DanceOPD 0.2.0, else in diffusers' examples/dreambooth/train_dreambooth_lora_*.py
    "sd3": tuple(f"attn.{name}" for name in ATTENTION + JOINT),
    "flux": (
        *(f"attn.{name}" for name in ATTENTION + JOINT),
        *(f"{ff}.{name}" for ff in ("ff", "ff_context") for name in ("net.0.proj", "net.2")),
        "proj_mlp",
    ),
    "flux2": (*ATTENTION, "to_qkv_mlp_proj", "single_transformer_blocks.0.attn.to_out"),
    "qwen_image": ATTENTION,
    "qwen_image_edit": ATTENTION,
    "z_image": (*ATTENTION, "w1", "w2", "w3"),
    "z_image_omni": (*ATTENTION, "w1", "w2", "w3"),
    "lumina2": ATTENTION,
    "sana": ("to_k", "to_q", "to_v"),
    "auraflow": ATTENTION + JOINT,  # which has no such script; SimpleTuner, helpers/models/auraflow/model.py
    "wan": ATTENTION,  # of finetrainers' examples
}


def found_by_peft(network: nn.Module, targets: tuple[str, ...]) -> set[str]:
    inject_adapter_in_model(LoraConfig(r=2, target_modules=list(targets)), network)
    parts = (name.partition(".lora_A.") for name, _ in network.named_parameters())
    return {module for module, found, _ in parts if found}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_default_modules_are_those_of_the_release_or_of_diffusers_script(tiny, name):
    model = tiny(name)
    skeleton = model.family.skeleton(model.folder)
    assert all(parameter.is_meta for parameter in skeleton.parameters()), "a skeleton holds no values"
    parameters = add_lora(skeleton, LoraShape(2, 2.0, model.family.default_lora_targets), seed=0)
    assert set(adapted_modules(parameters)) == found_by_peft(model.family.skeleton(model.folder), WRITTEN[name])


def test_an_ending_that_a_list_of_modules_has_too_is_written_so_that_others_read_it(tiny, tmp_path):
    """`attn.to_out` is a linear module in FLUX.2's single-stream blocks, and a list of modules in the others."""
    model = tiny("flux2")
    networks = [model.family.load_transformer(model.folder) for _ in range(3)]
    shape = LoraShape(2, 3.0, model.family.default_lora_targets)
    parameters = add_lora(networks[0], shape, seed=0)
    rng = torch.Generator().manual_seed(1)
    tensors = {key: torch.randn(parameter.shape, generator=rng) for key, parameter in parameters.items()}
    write_adapter(tmp_path / "peft", Adapter(shape, tensors))
    write_diffusers(tmp_path / "diffusers", Adapter(shape, tensors))
    PeftModel.from_pretrained(networks[1], tmp_path / "peft")
    networks[2].load_lora_adapter(tmp_path / "diffusers", use_safetensors=True)
    for network in networks[1:]:
        found = {key.replace(".default_0.", ".").replace(".default.", "."): value for key, value in network.named_parameters()}
        read = {key: value for key, value in found.items() if ".lora_" in key}
        assert read.keys() == tensors.keys()
        assert all(torch.equal(value, tensors[key]) for key, value in read.items())
