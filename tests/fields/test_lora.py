import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from fields.lora import (
    Adapter,
    LoraShape,
    adapted_modules,
    add_lora,
    combine,
    load_into,
    read_adapter,
    weight_difference,
    write_adapter,
)

SHAPE = LoraShape(8, 16.0, ("to_qkv", "to_out", "patch_out"))


@pytest.fixture
def inputs(states, encoded):
    condition = encoded("local_edit", 4)
    return states, torch.tensor([0.9, 0.6, 0.4, 0.2]), condition.tensors["words"], condition.tensors["source"]


def random_like(parameters, seed):
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(parameter.shape, generator=rng) * 0.1 for name, parameter in parameters.items()}


def random_adapter(shape, seed, module="m", size=(12, 9)):
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(shape.rank, size[1], generator=rng), torch.randn(size[0], shape.rank, generator=rng)
    return Adapter(shape, {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b})


def product(adapter, module="m"):
    """scale B A in float64."""
    a, b = (adapter.tensors[f"{module}.lora_{side}.weight"].double().numpy() for side in "AB")
    return adapter.shape.alpha / adapter.shape.rank * b @ a


def test_a_fresh_adapter_changes_no_bit_of_the_output(new_base, inputs):
    base, adapted = new_base(), new_base()
    parameters = add_lora(adapted, SHAPE, seed=0)
    assert torch.equal(adapted(*inputs), base(*inputs))
    assert all(parameter.abs().max() > 0 for name, parameter in parameters.items() if "lora_A" in name)


def test_parameters_carry_the_name_and_shape_of_their_module(new_base):
    parameters = add_lora(new_base(), LoraShape(3, 3.0, ("to_qkv", "patch_out")), seed=0)
    assert {name: tuple(parameter.shape) for name, parameter in parameters.items()} == {
        "blocks.0.to_qkv.lora_A.weight": (3, 48),
        "blocks.0.to_qkv.lora_B.weight": (144, 3),
        "blocks.1.to_qkv.lora_A.weight": (3, 48),
        "blocks.1.to_qkv.lora_B.weight": (144, 3),
        "patch_out.lora_A.weight": (3, 48),
        "patch_out.lora_B.weight": (192, 3),
    }
    assert adapted_modules(parameters) == ["blocks.0.to_qkv", "blocks.1.to_qkv", "patch_out"]


def test_masters_are_float32_over_a_bfloat16_base(new_base):
    parameters = add_lora(new_base().bfloat16(), SHAPE, seed=0)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}


def test_the_seed_decides_a(new_base):
    first, again, other = (add_lora(new_base(), SHAPE, seed) for seed in (5, 5, 6))
    for name in first:
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name], other[name]) == ("lora_B" in name)


def test_the_global_generator_is_left_as_it_was(new_base):
    base = new_base()
    torch.manual_seed(9)
    before = torch.get_rng_state()
    add_lora(base, SHAPE, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_target_is_named(new_base):
    with pytest.raises(ValueError, match="'to_nowhere' matches no linear module of SceneTransformer"):
        add_lora(new_base(), LoraShape(8, 8.0, ("to_qkv", "to_nowhere")), seed=0)


@pytest.mark.parametrize("target", ["phrases", "norm", "qkv"])
def test_a_target_that_is_no_linear_module_or_half_a_name_is_refused(new_base, target):
    with pytest.raises(ValueError, match="matches no linear module"):
        add_lora(new_base(), LoraShape(8, 8.0, (target,)), seed=0)


def test_the_adapted_module_is_w_plus_scale_b_a():
    module = nn.Sequential(nn.Linear(9, 12))
    adapter = random_adapter(LoraShape(4, 10.0, ("0",)), 0, "0")
    x = torch.randn(5, 9)
    with torch.no_grad():
        plain = module(x).double().numpy()
        load_into(add_lora(module, adapter.shape, seed=0), adapter.tensors, "test")
        np.testing.assert_allclose(
            module(x).numpy(), plain + x.double().numpy() @ product(adapter, "0").T, rtol=1e-4, atol=1e-4
        )


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
    assert read.shape == LoraShape(8, 16.0, tuple(sorted(SHAPE.targets)))
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
    "change", [{"use_dora": True}, {"rank_pattern": {"m": 2}}, {"use_rslora": True}, {"alpha_pattern": {"m": 2}}]
)
def test_adapters_that_scale_otherwise_are_refused(tmp_path, change):
    """Each of these computes something else than W + alpha / r B A; read as plain, it would be silently wrong."""
    write_adapter(tmp_path, random_adapter(LoraShape(4, 4.0, ("m",)), 0))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="plain LoRA"):
        read_adapter(tmp_path)


def test_load_into_says_how_many_tensors_do_not_fit_and_the_first():
    parameters = {name: torch.zeros(2, 3) for name in ("a", "b", "c")}
    with pytest.raises(ValueError, match=r"^expert 'x': 3 tensors .* first: b is absent, wanted \(2, 3\)$"):
        load_into(parameters, {"a": torch.ones(2, 3), "c": torch.ones(3, 2), "d": torch.ones(1)}, "expert 'x'")
    assert all((parameter == 0).all() for parameter in parameters.values()), "nothing is copied from what doesn't fit"


def test_load_into_refuses_a_tensor_too_many():
    with pytest.raises(ValueError, match=r"1 tensors .* first: z is \(1,\), wanted none"):
        load_into({"a": torch.zeros(2)}, {"a": torch.ones(2), "z": torch.ones(1)}, "s")


def test_weight_difference_is_scale_b_a():
    adapter = random_adapter(LoraShape(4, 10.0, ("m",)), 3)
    np.testing.assert_allclose(weight_difference(adapter.tensors, "m", 2.5).numpy(), product(adapter), rtol=1e-5, atol=1e-5)


def test_one_adapter_at_its_own_rank_is_reproduced():
    adapter = random_adapter(LoraShape(4, 10.0, ("m",)), 0)
    shape = LoraShape(4, 2.0, ("m",))
    merged = Adapter(shape, combine({"x": (adapter, 1.0)}, shape))
    np.testing.assert_allclose(product(merged), product(adapter), atol=1e-4)


def test_two_adapters_within_the_rank_are_summed_exactly():
    one, two = random_adapter(LoraShape(2, 6.0, ("m",)), 0), random_adapter(LoraShape(3, 3.0, ("m",)), 1)
    shape = LoraShape(5, 20.0, ("m",))
    merged = Adapter(shape, combine({"one": (one, 0.75), "two": (two, -0.5)}, shape))
    np.testing.assert_allclose(product(merged), 0.75 * product(one) - 0.5 * product(two), atol=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_lower_rank_is_the_best_approximation(rank):
    """Eckart and Young: the smallest possible Frobenius error is the root of the dropped squared singular values."""
    one, two = random_adapter(LoraShape(4, 4.0, ("m",)), 0), random_adapter(LoraShape(4, 8.0, ("m",)), 1)
    shape = LoraShape(rank, 3.0, ("m",))
    merged = Adapter(shape, combine({"one": (one, 0.6), "two": (two, 0.4)}, shape))
    exact = 0.6 * product(one) + 0.4 * product(two)
    tail = np.linalg.svd(exact, compute_uv=False)[rank:]
    assert np.linalg.norm(product(merged) - exact) == pytest.approx(np.sqrt((tail**2).sum()), rel=1e-4)


def test_a_rank_beyond_the_matrix_is_filled_with_zeros():
    adapter = random_adapter(LoraShape(4, 4.0, ("m",)), 0, size=(5, 3))
    shape = LoraShape(7, 7.0, ("m",))
    merged = Adapter(shape, combine({"x": (adapter, 2.0)}, shape))
    assert merged.tensors["m.lora_A.weight"].shape == (7, 3)
    assert merged.tensors["m.lora_B.weight"].shape == (5, 7)
    np.testing.assert_allclose(product(merged), 2 * product(adapter), atol=1e-4)


def test_a_merge_fits_the_student(new_base, local_edit, global_edit):
    shape = LoraShape(12, 6.0, local_edit.shape.targets)
    load_into(add_lora(new_base(), shape, 0), combine({"l": (local_edit, 0.5), "g": (global_edit, 0.5)}, shape), "merge")


def test_adapters_of_different_modules_cannot_be_merged():
    shape = LoraShape(2, 2.0, ("m",))
    with pytest.raises(ValueError, match="'x' and 'y' cannot be merged"):
        combine({"x": (random_adapter(shape, 0, "m"), 1.0), "y": (random_adapter(shape, 0, "n"), 1.0)}, shape)
