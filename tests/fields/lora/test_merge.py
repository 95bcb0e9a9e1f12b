import numpy as np
import pytest
import torch
from lora_cases import product, random_adapter
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fields.lora.adapter import Adapter, LoraShape, add_lora
from fields.lora.merge import combine, merged_network, rescaled
from fields.tensors import load_into


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


@pytest.mark.parametrize("rank", [2, 6, 9])
def test_the_factored_svd_is_the_dense_one(rank):
    """In float64, of the matrix itself; both have the same truncated product."""
    shapes = LoraShape(4, 6.0, ("m",)), LoraShape(6, 3.0, ("m",))
    one, two = (random_adapter(shape, seed, size=(40, 30)) for seed, shape in enumerate(shapes))
    student = LoraShape(rank, 5.0, ("m",))
    merged = product(Adapter(student, combine({"one": (one, 0.7), "two": (two, -0.4)}, student)))
    u, s, vh = np.linalg.svd(0.7 * product(one) - 0.4 * product(two), full_matrices=False)
    expected = u[:, :rank] * s[:rank] @ vh[:rank]
    assert np.linalg.norm(merged - expected) < 1e-5 * np.linalg.norm(expected)


def test_no_matrix_of_a_weights_size_is_made():
    """A merge of large networks takes seconds: what is decomposed has the rank of all adapters together."""
    adapters = {f"{seed}": (random_adapter(LoraShape(2, 2.0, ("m",)), seed, size=(50, 60)), 0.5) for seed in range(3)}
    with Sizes() as sizes:
        combine(adapters, LoraShape(4, 4.0, ("m",)))
    assert max(sizes.of) <= 60 * 6


class Sizes(TorchDispatchMode):
    """How many numbers each tensor has that is made."""

    def __init__(self):
        super().__init__()
        self.of = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.of += [
            tensor.numel() for tensor in (made if isinstance(made, tuple) else (made,)) if isinstance(tensor, torch.Tensor)
        ]
        return made


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


def test_a_student_of_another_alpha_computes_what_the_expert_does():
    adapter = random_adapter(LoraShape(4, 10.0, ("m",), alphas={"m": 6.0}), 0)
    student = LoraShape(4, 2.0, ("m",))
    np.testing.assert_allclose(product(Adapter(student, rescaled(adapter, student))), product(adapter), rtol=1e-5, atol=1e-5)


def test_at_the_same_scale_no_bit_changes():
    adapter = random_adapter(LoraShape(4, 3.0, ("m",)), 0)
    student = LoraShape(4, 3.0, ("other", "m"))
    assert all(torch.equal(tensor, adapter.tensors[name]) for name, tensor in rescaled(adapter, student).items())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_adapter_is_merged_into_a_network_wherever_it_lies(device):
    """On `meta`, a network without values: what is checked before a run is deployed."""
    network = nn.Sequential(nn.Linear(9, 12), nn.Linear(12, 5)).bfloat16().to(device)
    adapter = random_adapter(LoraShape(2, 6.0, ()), 0, "0", (12, 9))
    tensors = merged_network(network, adapter)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: p.shape for n, p in network.named_parameters()}
    assert {(tensor.dtype, tensor.device.type) for tensor in tensors.values()} == {(torch.float32, device)}
    if device == "cpu":
        expected = network[0].weight.double().detach().numpy() + product(adapter, "0")
        np.testing.assert_allclose(tensors["0.weight"].numpy(), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(tensors["1.weight"], network[1].weight.float())
