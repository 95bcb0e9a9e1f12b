import numpy as np
import pytest
import torch
from lora_cases import product, random_adapter
from torch import nn

from fields.lora.adapter import Adapter, LoraShape, adapted_modules, add_lora, put_adapter, weight_difference
from fields.tensors import load_into

SHAPE = LoraShape(8, 16.0, ("to_qkv", "to_out", "patch_out"))


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
        put_adapter(module, adapter, "test")
        np.testing.assert_allclose(
            module(x).numpy(), plain + x.double().numpy() @ product(adapter, "0").T, rtol=1e-4, atol=1e-4
        )


def test_load_into_lists_the_tensors_that_do_not_fit():
    parameters = {name: torch.zeros(2, 3) for name in ("a", "b", "c")}
    with pytest.raises(
        ValueError,
        match=r"^expert 'x': 3 tensors .*: b is absent, wanted \(2, 3\); c is .*; d is \(1,\), wanted none$",
    ):
        load_into(parameters, {"a": torch.ones(2, 3), "c": torch.ones(3, 2), "d": torch.ones(1)}, "expert 'x'")
    assert all((parameter == 0).all() for parameter in parameters.values()), "nothing is copied from what doesn't fit"


def test_load_into_refuses_a_tensor_too_many():
    with pytest.raises(ValueError, match=r"1 tensors .*: z is \(1,\), wanted none"):
        load_into({"a": torch.zeros(2)}, {"a": torch.ones(2), "z": torch.ones(1)}, "s")


def test_weight_difference_is_scale_b_a():
    adapter = random_adapter(LoraShape(4, 10.0, ("m",)), 3)
    np.testing.assert_allclose(weight_difference(adapter.tensors, "m", 2.5).numpy(), product(adapter), rtol=1e-5, atol=1e-5)


def test_a_long_list_is_cut():
    tensors = {f"m{n}": torch.ones(1) for n in range(11)}
    with pytest.raises(ValueError, match=r"11 tensors .*; m6 is \(1,\), wanted none and 3 more$"):
        load_into({}, tensors, "s")


def test_modules_may_have_a_rank_and_a_scale_of_their_own():
    module = nn.Sequential(nn.Linear(9, 12), nn.Linear(12, 5), nn.Linear(5, 5))
    shape = LoraShape(4, 10.0, ("0", "1", "2"), ranks={"1": 2}, alphas={"0": 3.0, "1": 7.0})
    assert [shape.scale(name) for name in "012"] == [0.75, 3.5, 2.5]
    parts = {name: random_adapter(LoraShape(shape.ranks.get(name, 4), 1.0, ()), n, name, size) for n, (name, size) in SIZES}
    adapter = Adapter(shape, {key: tensor for part in parts.values() for key, tensor in part.tensors.items()})
    expected = {name: module.get_submodule(name).weight.double() + torch.from_numpy(product(adapter, name)) for name in "012"}
    put_adapter(module, adapter, "test")
    for name, weight in expected.items():
        x = torch.randn(3, weight.shape[1])
        linear = module.get_submodule(name)
        np.testing.assert_allclose(
            (linear(x) - linear.bias).detach().numpy(), (x.double() @ weight.T).detach().numpy(), rtol=1e-4, atol=1e-4
        )


SIZES = list(enumerate((("0", (12, 9)), ("1", (5, 12)), ("2", (5, 5)))))


def test_an_adapter_goes_into_its_own_modules_only():
    """A module whose whole name ends another's: the list of targets alone could not tell them apart."""
    module = nn.ModuleDict({"out": nn.Linear(9, 12), "block": nn.ModuleDict({"out": nn.Linear(9, 12)})})
    adapter = random_adapter(LoraShape(4, 4.0, ()), 0, "out")
    assert sorted(put_adapter(module, adapter, "test")) == ["out.lora_A.weight", "out.lora_B.weight"]


def test_a_module_that_the_adapter_claims_and_does_not_have_is_listed():
    module = nn.ModuleDict({"out": nn.Linear(9, 12), "block": nn.ModuleDict({"out": nn.Linear(9, 12)})})
    adapter = random_adapter(LoraShape(4, 4.0, ("out",)), 0, "out")
    with pytest.raises(ValueError, match=r"2 tensors .*: block\.out\.lora_A\.weight is absent, wanted \(4, 9\)"):
        put_adapter(module, adapter, "test")
