"""A network twice as wide that computes what it computed, and matrices of eight bits."""

import pytest
import torch

from fields.scene.eight_bits import from_eight_bits, in_eight_bits
from fields.scene.family import WEIGHTS, SceneFamily, save_transformer
from fields.scene.recipes import BASE
from fields.scene.recipes import WEIGHTS as SHIPPED
from fields.scene.widening import widened


@pytest.fixture(scope="module")
def batch(states, encoded):
    condition = encoded("local_edit", 4)
    return states, torch.tensor([1.0, 0.7, 0.4, 0.1]), condition.tensors["words"], condition.tensors["source"]


def difference(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("with_source", [False, True])
def test_it_computes_the_same_where_the_time_does_not_matter(new_base, batch, with_source):
    """With more frequencies of t nothing but their weights can differ."""
    network = new_base()
    network.time_in.weight.data.zero_()
    inputs = batch if with_source else batch[:3]
    wide = widened(network, seed=0)
    assert wide.config == {"width": 96, "depth": 2, "heads": 4}
    assert difference(wide(*inputs), network(*inputs)) < 1e-5


def test_the_times_weights_are_the_nearest(batch):
    """Of the shipped base; frequencies up to 1000 are too far apart for an exact fit."""
    network = SceneFamily().load_transformer(SHIPPED / BASE)
    assert difference(widened(network, seed=0)(*batch), network(*batch)) < 0.02
    x_t, t, *rest = batch
    assert difference(network(x_t, t / 2, *rest), network(*batch)) > 0.1, "the time matters"


def test_the_copies_differ_and_learn_different_things(new_base, batch):
    wide = widened(new_base(), seed=0)
    wide.requires_grad_(True)
    wide(*batch).square().mean().backward()
    weight = wide.blocks[0].ff_in.weight
    halves = weight.shape[1] // 2
    assert difference(weight[:, :halves], weight[:, halves:]) > 0.3
    first, second = weight.grad.chunk(2)
    assert difference(first, second) > 0.3


def test_another_seed_is_another_network(new_base):
    one, same, other = (widened(new_base(), seed).state_dict()["blocks.0.to_qkv.weight"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_eight_bits_are_off_by_at_most_half_a_step(new_base):
    tensors = dict(new_base().state_dict())
    read = from_eight_bits(in_eight_bits(tensors))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if tensor.ndim != 2:
            assert torch.equal(read[name], tensor.float())
            continue
        step = tensor.abs().amax(dim=1, keepdim=True) / 127
        assert bool(((read[name] - tensor).abs() <= step * 0.5001).all()), name


def test_a_file_of_eight_bits_is_half_as_large_and_loads(new_base, batch, tmp_path):
    network = new_base()
    save_transformer(network, tmp_path / "half")
    save_transformer(network, tmp_path / "eight", eight_bits=True)
    sizes = {name: (tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "eight")}
    assert sizes["eight"] < 0.65 * sizes["half"]
    loaded = SceneFamily().load_transformer(tmp_path / "eight")
    assert 0 < difference(loaded(*batch), network(*batch)) < 0.05
