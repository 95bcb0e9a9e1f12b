import pytest
import torch
from lora_cases import product, random_adapter
from torch import nn

from fields.lora.adapter import Adapter, LoraShape
from fields.lora.stacked import BASE, RowsAreNoSamples, stack_adapters


@pytest.fixture
def adapters():
    """Of ranks 2 and 5 and scales 3 and 1/2, the second on one module only."""
    one = [
        random_adapter(LoraShape(2, 6.0, ()), n, name, size) for n, (name, size) in enumerate((("0", (12, 9)), ("1", (5, 12))))
    ]
    both = Adapter(one[0].shape, {**one[0].tensors, **one[1].tensors})
    return {"one": both, "two": random_adapter(LoraShape(5, 2.5, ()), 2, "0", (12, 9))}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 12), nn.Linear(12, 5)).requires_grad_(False)


def by_hand(network, adapters, numbers, x):
    """Row by row in float64, with B A added to the weights."""
    names = [*adapters, None]
    rows = []
    for number, row in zip(numbers, x.double(), strict=True):
        for k, module in enumerate(network):
            weight, name = module.weight.double(), names[number]
            if name and f"{k}.lora_A.weight" in adapters[name].tensors:
                weight = weight + torch.from_numpy(product(adapters[name], str(k)))
            row = row @ weight.T + module.bias.double()
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("shape", [(6, 9), (6, 4, 9), (6, 2, 3, 9)])
@pytest.mark.parametrize("numbers", [(0, 1, BASE, 1, 0, 0), (1,) * 6, (0,) * 6, (BASE,) * 6])
def test_each_row_has_its_own_adapter(network, adapters, numbers, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = by_hand(network, adapters, numbers, x)
    choice = stack_adapters(network, adapters)
    choice.choose(torch.tensor(numbers))
    torch.testing.assert_close(network(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_rows_without_an_adapter_are_the_base_to_the_last_bit(network, adapters):
    x = torch.randn(6, 9)
    expected = network(x)
    choice = stack_adapters(network, adapters)
    choice.choose(torch.tensor([BASE] * 6))
    assert torch.equal(network(x), expected)


def test_rows_that_are_no_samples_are_refused_when_adapters_differ(network, adapters):
    choice = stack_adapters(network, adapters)
    choice.choose(torch.tensor([0, 1]))
    with pytest.raises(RowsAreNoSamples, match="6 rows of 2 samples"):
        network(torch.randn(6, 9))
    choice.choose(torch.tensor([0, 0]))
    assert network(torch.randn(6, 9)).shape == (6, 5)


def test_a_bfloat16_network_stays_one(network, adapters):
    choice = stack_adapters(network.bfloat16(), adapters)
    choice.choose(torch.tensor([0, 1]))
    assert network(torch.randn(2, 9).bfloat16()).dtype == torch.bfloat16
    assert network[0].weight.dtype == torch.bfloat16
    assert network[0].a.dtype == torch.bfloat16


@pytest.mark.parametrize(("module", "size"), [("0", (12, 8)), ("7", (12, 9))])
def test_an_adapter_that_does_not_fit_is_refused(network, module, size):
    adapter = random_adapter(LoraShape(2, 2.0, ()), 0, module, size)
    with pytest.raises(
        ValueError, match=rf"expert 'x': . tensors don't fit the model: {module}\.lora_A\.weight is \(2, {size[1]}\)"
    ):
        stack_adapters(network, {"x": adapter})
