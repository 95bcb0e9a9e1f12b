"""The adapted linear module against PEFT's, in float32 to the last bit, and against float64 in bfloat16."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from fields.lora.adapter import Adapter, LoraShape, add_lora, put_adapter
from fields.lora.linear import LoraLinear, freeze_adapters

SHAPE = LoraShape(rank=4, alpha=6.0, targets=("0", "2"), ranks={"2": 3}, alphas={"2": 9.0})


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 16, bias=False)).to(dtype)


def trained(parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """With a B that is not zero, so that there is something to compute."""
    torch.manual_seed(4)
    for parameter in parameters.values():
        nn.init.normal_(parameter, std=0.3)
    return parameters


def test_a_fresh_adapter_and_what_it_computes_are_pefts_to_the_last_bit():
    ours, theirs = network(), network()
    patterns = {"rank_pattern": {"^2": 3}, "alpha_pattern": {"^2": 9.0}}
    config = LoraConfig(r=4, lora_alpha=6.0, target_modules="0|2", init_lora_weights="gaussian", **patterns)
    own = add_lora(ours, SHAPE, seed=5)
    torch.manual_seed(5)
    inject_adapter_in_model(config, theirs)
    other = {n.replace(".default", ""): p for n, p in theirs.named_parameters() if ".lora_" in n}
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    trained(own)
    with torch.no_grad():
        for name, parameter in own.items():
            other[name].copy_(parameter)
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(6))
    y, expected = ours(x), theirs(x)
    assert torch.equal(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in own.items():
        assert parameter.grad is not None
        assert other[name].grad is not None
        assert torch.equal(parameter.grad, other[name].grad), name


def test_a_network_in_bfloat16_computes_its_adapter_in_bfloat16_and_trains_it_in_float32():
    module = network(torch.bfloat16)
    parameters = trained(add_lora(module, SHAPE, seed=0))
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(6)).bfloat16()
    first = module[0]
    assert isinstance(first, LoraLinear)
    a, b = (parameters[f"0.lora_{side}.weight"].detach().bfloat16() for side in "AB")
    assert torch.equal(first(x), first.base_layer(x) + 1.5 * ((x @ a.T) @ b.T))
    module(x).float().square().sum().backward()
    exact = network().double()
    copies = add_lora(exact, SHAPE, seed=0)
    for name, parameter in copies.items():
        parameter.data = parameters[name].detach().double()
    exact.load_state_dict({name: tensor.double() for name, tensor in module.state_dict().items()})
    exact(x.double()).square().sum().backward()
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        expected = copies[name].grad
        assert expected is not None
        assert (parameter.grad - expected).norm() < 0.02 * expected.norm(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_adapter_is_kept_in_the_networks_type_and_computes_what_the_masters_do(dtype):
    """So an expert's velocity is that of the student that equals it, to the last bit."""
    student, expert = network(dtype), network(dtype)
    parameters = trained(add_lora(student, SHAPE, seed=0))
    adapter = Adapter(SHAPE, {name: parameter.detach() for name, parameter in parameters.items()})
    frozen = put_adapter(expert, adapter, "test")
    freeze_adapters(expert)
    assert {(parameter.dtype, parameter.requires_grad) for parameter in frozen.values()} == {(dtype, False)}
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(6)).to(dtype)
    assert torch.equal(student(x), expert(x))
