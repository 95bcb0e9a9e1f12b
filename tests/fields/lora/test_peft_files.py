import json
import re
from dataclasses import replace

import pytest
import torch
from lora_cases import random_adapter, random_like
from peft import LoraConfig, PeftModel, get_peft_model

from fields.lora.adapter import Adapter, LoraShape, adapted_modules, add_lora, put_adapter
from fields.lora.peft_files import read_adapter, write_adapter
from fields.tensors import load_into

SHAPE = LoraShape(8, 16.0, ("to_qkv", "to_out", "patch_out"))


def test_stock_peft_reads_what_we_write(new_base, inputs, tmp_path):
    ours = new_base()
    parameters = add_lora(ours, SHAPE, seed=0)
    adapter = Adapter(SHAPE, random_like(parameters, 1))
    load_into(parameters, adapter.tensors, "test")
    write_adapter(tmp_path, adapter)
    stock = PeftModel.from_pretrained(new_base(), str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(stock(*inputs), ours(*inputs))
        assert (ours(*inputs) - new_base()(*inputs)).norm() > 0.01 * ours(*inputs).norm()


def test_equal_adapters_are_equal_files(new_base, tmp_path):
    """Whatever process writes them: PEFT's own list of modules is a set's, in another order in each."""
    adapter = Adapter(SHAPE, random_like(add_lora(new_base(), SHAPE, seed=0), 2))
    write_adapter(tmp_path, adapter)
    modules = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert modules == adapted_modules(adapter.tensors) == sorted(modules)


@pytest.mark.parametrize("alpha", [16, 12.0])
def test_we_read_what_stock_peft_writes(new_base, inputs, tmp_path, alpha):
    config = LoraConfig(r=8, lora_alpha=alpha, target_modules=["to_qkv", "ff_in"], init_lora_weights=False)
    stock = get_peft_model(new_base(), config).eval()
    stock.save_pretrained(str(tmp_path))
    adapter = read_adapter(tmp_path)
    assert adapter.shape == LoraShape(8, float(alpha), ("ff_in", "to_qkv"))
    ours = new_base()
    load_into(add_lora(ours, adapter.shape, seed=0), adapter.tensors, "test")
    with torch.no_grad():
        assert torch.equal(ours(*inputs), stock(*inputs))


def test_written_and_read_adapters_are_equal(new_base, tmp_path):
    adapter = Adapter(SHAPE, random_like(add_lora(new_base(), SHAPE, seed=0), 2))
    write_adapter(tmp_path, adapter)
    read = read_adapter(tmp_path)
    assert read.shape == LoraShape(8, 16.0, tuple(adapted_modules(adapter.tensors)))
    assert read.tensors.keys() == adapter.tensors.keys()
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in adapter.tensors.items())


def test_a_float16_file_is_read_as_float32(tmp_path):
    adapter = random_adapter(LoraShape(4, 4.0, ("m",)), 0)
    write_adapter(tmp_path, adapter, torch.float16)
    for name, tensor in read_adapter(tmp_path).tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, adapter.tensors[name].half().float())


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    write_adapter(tmp_path, random_adapter(LoraShape(4, 4.0, ("m",)), 0))
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"it has no {name}"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b[:20], lambda b: b"", lambda b: b"\xff" * 64])
def test_damaged_tensors_are_refused(tmp_path, damage):
    write_adapter(tmp_path, random_adapter(LoraShape(4, 4.0, ("m",)), 0))
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="is damaged"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("content", ["", '{"peft_type": "LO', "[]", "{}", '{"peft_type": "LORA"}', '{"peft_type": "IA3"}'])
def test_a_damaged_or_foreign_configuration_is_refused(tmp_path, content):
    write_adapter(tmp_path, random_adapter(LoraShape(4, 4.0, ("m",)), 0))
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match=r".+"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": None}, "r is None; allowed are numbers above 0"),
        ({"r": []}, "r is []"),
        ({"r": -4}, "r is -4"),
        ({"r": True}, "r is True"),
        ({"r": 10**10}, "r is 10000000000; allowed are numbers above 0 and below 1e+09"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"rank_pattern": 5}, "rank_pattern is no mapping"),
        ({"rank_pattern": {"m": "x"}}, "rank_pattern 'm' is 'x'"),
        ({"rank_pattern": {"(": 4}}, "'(' is no pattern of modules"),
        ({"rank_pattern": {"(([a-z_.0-9]+)+)+!": 4}}, "repeats a group, which is not read from a file"),
        ({"target_modules": ["m", 5]}, "target_modules are names of modules"),
    ],
)
def test_a_configuration_with_other_values_is_refused(tmp_path, change, said):
    write_adapter(tmp_path, random_adapter(LoraShape(4, 4.0, ("m",)), 0))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"rank_pattern": {}} | change))
    with pytest.raises(ValueError, match=re.escape(said)):
        read_adapter(tmp_path)


def test_a_configuration_that_is_nested_without_end_is_refused(tmp_path):
    write_adapter(tmp_path, random_adapter(LoraShape(4, 4.0, ("m",)), 0))
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is no JSON"):
        read_adapter(tmp_path)


PATTERNS = {
    "rank": {"rank_pattern": {"to_qkv": 3, "blocks.1.ff_in": 5}},
    "alpha": {"alpha_pattern": {"to_qkv": 2.0, r".*1\.ff_in": 24.0}},
    "both": {"rank_pattern": {"ff_in": 2}, "alpha_pattern": {"ff_in": 6.0}},
    "stabilised": {"use_rslora": True, "rank_pattern": {"ff_in": 2}},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "blocks"},
    "a pattern of names": {"target_modules": r".*\.(to_qkv|ff_in)"},
}


@pytest.mark.parametrize("extra", PATTERNS.values(), ids=PATTERNS.keys())
def test_we_read_the_patterns_that_stock_peft_writes(new_base, inputs, tmp_path, extra):
    arguments = {"r": 8, "lora_alpha": 12.0, "target_modules": ["to_qkv", "ff_in"], "init_lora_weights": False} | extra
    stock = get_peft_model(new_base(), LoraConfig(**arguments)).eval()
    stock.save_pretrained(str(tmp_path))
    ours = new_base()
    put_adapter(ours, read_adapter(tmp_path), "test")
    with torch.no_grad():
        expected = stock(*inputs)
        torch.testing.assert_close(ours(*inputs), expected, rtol=1e-6, atol=1e-5)
        assert (expected - new_base()(*inputs)).norm() > 0.01 * expected.norm()


def test_stock_peft_reads_the_patterns_that_we_write(new_base, inputs, tmp_path):
    shape = LoraShape(8, 16.0, ("to_qkv", "patch_out"), ranks={"patch_out": 3}, alphas={"blocks.1.to_qkv": 4.0})
    rng = torch.Generator().manual_seed(0)
    ours, tensors = new_base(), {}
    for module in ("blocks.0.to_qkv", "blocks.1.to_qkv", "patch_out"):
        rank, weight = shape.ranks.get(module, 8), ours.get_parameter(f"{module}.weight")
        tensors[f"{module}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=rng) * 0.1
        tensors[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], rank, generator=rng) * 0.1
    adapter = Adapter(shape, tensors)
    write_adapter(tmp_path, adapter)
    put_adapter(ours, adapter, "test")
    stock = PeftModel.from_pretrained(new_base(), str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(stock(*inputs), ours(*inputs))
    assert read_adapter(tmp_path).shape == replace(shape, targets=("blocks.0.to_qkv", "blocks.1.to_qkv", "patch_out"))


def change_config(folder, **change):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(("change", "said"), [({"use_dora": True}, "DoRA"), ({"peft_type": "LOHA"}, "LOHA")])
def test_adapters_that_compute_otherwise_are_refused(tmp_path, change, said):
    write_adapter(tmp_path, random_adapter(LoraShape(4, 4.0, ("m",)), 0))
    change_config(tmp_path, **change)
    with pytest.raises(ValueError, match=f"only LoRA is supported, not {said}"):
        read_adapter(tmp_path)


def test_a_rank_that_the_configuration_does_not_say_is_refused(tmp_path):
    write_adapter(tmp_path, random_adapter(LoraShape(4, 4.0, ("m",)), 0))
    change_config(tmp_path, r=3)
    with pytest.raises(ValueError, match=r"m\.lora_A\.weight has rank 4; the configuration says 3"):
        read_adapter(tmp_path)


def test_a_trained_bias_is_refused(tmp_path):
    adapter = random_adapter(LoraShape(4, 4.0, ("m",)), 0)
    write_adapter(tmp_path, Adapter(adapter.shape, {**adapter.tensors, "m.bias": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"1 tensors are of no linear LoRA: m\.bias"):
        read_adapter(tmp_path)
