"""Adapter files of other programs, against those programs: stock diffusers pipelines and networks are the oracle."""

import json

import pytest
import torch
from lora_cases import random_adapter, random_like
from safetensors.torch import load_file, save_file
from tiny_diffusers import flux_pipeline, flux_transformer, sd3_image, sd3_pipeline, sd3_transformer

from fields.lora.adapter import Adapter, LoraShape, adapted_modules, add_lora, linear_modules, put_adapter, weight_difference
from fields.lora.formats import load_adapter, write_diffusers
from fields.lora.peft_files import write_adapter

TARGETS = ("to_q", "to_out.0", "add_k_proj", "proj_out")


@pytest.fixture(scope="module")
def adapter():
    """A random LoRA of the tiny SD3, alpha other than rank."""
    shape = LoraShape(4, 6.0, TARGETS)
    return Adapter(shape, random_like(add_lora(sd3_transformer(), shape, seed=0), 3))


def merged(transformer, adapter):
    """The network with the adapter added to its weights."""
    for module in adapted_modules(adapter.tensors):
        weight = transformer.get_parameter(f"{module}.weight")
        weight += weight_difference(adapter.tensors, module, adapter.shape.scale(module))
    return transformer


def weights(transformer):
    """Every linear module's weight with its loaded LoRA fused in."""
    transformer.fuse_lora()
    return {
        name.removesuffix(".base_layer"): module.weight
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and ".lora_" not in name
    }


def same(adapter, path, transformer, ignore=()):
    """Whether what is read computes what was written."""
    read = load_adapter(path, transformer, ignore)
    assert adapted_modules(read.tensors) == adapted_modules(adapter.tensors)
    return all(
        torch.allclose(
            weight_difference(read.tensors, module, read.shape.scale(module)),
            weight_difference(adapter.tensors, module, adapter.shape.scale(module)),
            rtol=1e-5,
            atol=1e-6,
        )
        for module in adapted_modules(adapter.tensors)
    )


def test_a_stock_pipeline_loads_what_we_write(adapter, tmp_path):
    write_adapter(tmp_path, adapter)
    write_diffusers(tmp_path, adapter)
    pipeline = sd3_pipeline(sd3_transformer())
    bare = sd3_image(pipeline)
    pipeline.load_lora_weights(str(tmp_path))
    loaded = sd3_image(pipeline)
    ours = sd3_image(sd3_pipeline(merged(sd3_transformer(), adapter)))
    torch.testing.assert_close(loaded, ours, rtol=0, atol=1e-5)
    assert (loaded - bare).abs().mean() > 0.01, "the image did not change"


@pytest.mark.parametrize("with_metadata", [True, False])
def test_we_read_what_a_stock_pipeline_saves(tmp_path, with_metadata):
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    stock = sd3_transformer()
    alpha = 10.0 if with_metadata else 4.0  # diffusers takes alpha = rank where a file doesn't say
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=["to_q", "proj_out"], init_lora_weights=False)
    stock.add_adapter(config)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(stock))
    metadata = {"transformer_lora_adapter_metadata": stock.peft_config["default"].to_dict()} if with_metadata else {}
    type(sd3_pipeline(stock)).save_lora_weights(str(tmp_path), transformer_lora_layers=layers, **metadata)
    ours = sd3_transformer()
    put_adapter(ours, load_adapter(tmp_path, ours), "test")
    torch.testing.assert_close(sd3_image(sd3_pipeline(ours)), sd3_image(sd3_pipeline(stock)), rtol=0, atol=1e-6)


def with_keys(adapter, name_of, down="lora_down.weight", up="lora_up.weight", alpha="alpha"):
    """An adapter's tensors as another program names them, its scales in `alpha` keys of rank times scale."""
    tensors = {}
    for module in adapted_modules(adapter.tensors):
        a, b = (adapter.tensors[f"{module}.lora_{side}.weight"] for side in "AB")
        tensors |= {f"{name_of(module)}.{down}": a, f"{name_of(module)}.{up}": b.contiguous()}
        tensors[f"{name_of(module)}.{alpha}"] = torch.tensor(len(a) * adapter.shape.scale(module))
    return tensors


FORMS = {
    "kohya": lambda adapter: with_keys(adapter, lambda name: "lora_unet_" + name.replace(".", "_")),
    "kohya, transformer": lambda adapter: with_keys(adapter, lambda name: "lora_transformer_" + name.replace(".", "_")),
    "comfy": lambda adapter: with_keys(adapter, lambda name: "diffusion_model." + name),
    "comfy, A and B": lambda a: with_keys(a, lambda name: "diffusion_model." + name, "lora_A.weight", "lora_B.weight"),
    "old diffusers": lambda a: with_keys(a, lambda name: "transformer." + name, "lora.down.weight", "lora.up.weight"),
    "no prefix": lambda adapter: with_keys(adapter, lambda name: name),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_single_file_of_each_form(adapter, tmp_path, form):
    save_file(form(adapter), tmp_path / "style.safetensors")
    assert same(adapter, tmp_path / "style.safetensors", sd3_transformer())
    assert same(adapter, tmp_path, sd3_transformer()), "the only file of a folder"


def test_every_module_has_its_own_rank_and_alpha(tmp_path):
    """As kohya's trainer writes them."""
    modules = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_k", "transformer_blocks.1.attn.to_v", "proj_out")
    ranks, alphas = dict(zip(modules, (2, 4, 4, 7), strict=True)), dict(zip(modules, (2.0, 2.0, 3.5, 0.5), strict=True))
    shape, tensors = LoraShape.of(ranks, alphas, ()), {}
    for n, module in enumerate(modules):
        size = tuple(sd3_transformer().get_parameter(f"{module}.weight").shape)
        tensors |= random_adapter(LoraShape(ranks[module], 1.0, ()), n, module, size).tensors
    adapter = Adapter(shape, tensors)
    save_file(FORMS["kohya"](adapter), tmp_path / "a.safetensors")
    read = load_adapter(tmp_path / "a.safetensors", sd3_transformer())
    assert {module: read.shape.scale(module) for module in modules} == {m: alphas[m] / ranks[m] for m in modules}
    stock = sd3_pipeline(sd3_transformer())
    write_diffusers(tmp_path / "again", read)
    stock.load_lora_weights(str(tmp_path / "again"))
    torch.testing.assert_close(sd3_image(stock), sd3_image(sd3_pipeline(merged(sd3_transformer(), adapter))), rtol=0, atol=1e-5)


def test_without_alpha_the_scale_is_1(adapter, tmp_path):
    tensors = {key: t for key, t in FORMS["comfy"](adapter).items() if not key.endswith("alpha")}
    save_file(tensors, tmp_path / "a.safetensors")
    read = load_adapter(tmp_path, sd3_transformer())
    assert {read.shape.scale(module) for module in adapted_modules(read.tensors)} == {1.0}


def flux_kohya_file():
    """A file for the original FLUX checkpoint, whose attention is one fused module: three of diffusers'."""
    rng = torch.Generator().manual_seed(4)
    sizes = {
        "img_attn_qkv": (96, 32),
        "txt_mlp_0": (128, 32),
        "img_attn_proj": (32, 32),
    }
    tensors = {}
    for name, (rows, columns) in sizes.items():
        tensors |= {
            f"lora_unet_double_blocks_0_{name}.lora_down.weight": torch.randn(4, columns, generator=rng) * 0.3,
            f"lora_unet_double_blocks_0_{name}.lora_up.weight": torch.randn(rows, 4, generator=rng) * 0.3,
            f"lora_unet_double_blocks_0_{name}.alpha": torch.tensor(2.0),
        }
    return tensors


def test_a_file_for_the_original_checkpoint_is_read_as_diffusers_reads_it(tmp_path):
    save_file(flux_kohya_file(), tmp_path / "flux.safetensors")
    stock = flux_pipeline(flux_transformer())
    stock.load_lora_weights(str(tmp_path / "flux.safetensors"))
    expected, bare, ours = weights(stock.transformer), flux_transformer(), flux_transformer()
    merged(ours, load_adapter(tmp_path, flux_transformer()))
    changed = set()
    for name in linear_modules(bare):
        torch.testing.assert_close(ours.get_parameter(f"{name}.weight"), expected[name], rtol=1e-5, atol=1e-6)
        if not torch.equal(bare.get_parameter(f"{name}.weight"), expected[name]):
            changed.add(name.removeprefix("transformer_blocks.0."))
    assert changed == {"attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff_context.net.0.proj"}


FOREIGN = {
    "another module": "transformer.blocks.7.attn.to_q.lora_A.weight",
    "another kind of module": "transformer.transformer_blocks.0.norm1.lora_A.weight",
    "a text encoder": "text_encoder.layers.0.q_proj.lora_A.weight",
    "another method": "transformer.proj_out.lokr_w1",
    "a bias": "transformer.proj_out.lora_B.bias",
    "a magnitude": "transformer.proj_out.dora_scale",
}


@pytest.mark.parametrize("key", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_key_of_no_linear_module_is_listed_unless_it_is_ignored_by_name(adapter, tmp_path, key):
    write_diffusers(tmp_path, adapter)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    config = {
        f"transformer.{name}": value for name, value in (("r", 4), ("lora_alpha", 6.0), ("target_modules", list(TARGETS)))
    }
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    save_file(load_file(file) | {key: torch.ones(4, 4)}, file, metadata=metadata)
    with pytest.raises(ValueError, match=rf"1 keys are of no linear module of SD3Transformer2DModel: {key};.*ignored keys"):
        load_adapter(tmp_path, sd3_transformer())
    assert same(adapter, tmp_path, sd3_transformer(), ignore=("text_*", key))


def test_many_foreign_keys_are_listed_as_far_as_a_line_goes(adapter, tmp_path):
    save_file(FORMS["kohya"](adapter), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"21 keys .* of Linear: lora_unet_proj_out\.alpha; lora_unet_.* and 13 more"):
        load_adapter(tmp_path, torch.nn.Linear(2, 2))


def test_a_file_that_diffusers_cannot_translate_is_refused(adapter, tmp_path):
    save_file(FORMS["kohya"](adapter), tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=r"a\.safetensors: diffusers' FluxLoraLoaderMixin cannot translate it: .*lora_unet_proj_out[^\n]*$"
    ):
        load_adapter(tmp_path, flux_transformer())


def test_a_module_left_out_by_ignore_is_left_as_it_is(adapter, tmp_path):
    write_adapter(tmp_path, adapter)
    transformer = sd3_transformer()
    read = load_adapter(tmp_path, transformer, ignore=("*.proj_out.*",))
    assert set(adapted_modules(adapter.tensors)) - set(adapted_modules(read.tensors)) == {"proj_out"}
    put_adapter(transformer, read, "test")


def test_a_folder_of_several_files_wants_one_named(adapter, tmp_path):
    for name in ("one", "two"):
        save_file(FORMS["comfy"](adapter), tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="holds 2 adapters"):
        load_adapter(tmp_path, sd3_transformer())
    assert same(adapter, tmp_path / "two.safetensors", sd3_transformer())


@pytest.mark.parametrize(("path", "message"), [("", "holds 0 adapters"), ("nowhere", "no such file or folder: .*/nowhere")])
def test_no_adapter(tmp_path, path, message):
    with pytest.raises(ValueError, match=message):
        load_adapter(tmp_path / path, sd3_transformer())


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b[:20], lambda b: b"", lambda b: b"\xff" * 64])
def test_damaged_tensors_are_refused(adapter, tmp_path, damage):
    write_diffusers(tmp_path, adapter)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(tmp_path, sd3_transformer())


def test_an_adapter_that_ignores_everything_has_no_tensors(adapter, tmp_path):
    save_file(FORMS["comfy"](adapter), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="has no tensors"):
        load_adapter(tmp_path, sd3_transformer(), ignore=("*",))
