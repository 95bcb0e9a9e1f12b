"""What the planner takes for the largest input is what the model's own pipeline gives for a prompt that is cut."""

import numpy as np
import pytest
import tiny_pipelines
import torch

from fields.data.images import encode_png
from fields.data.rows import Row
from fields.memory.cost import Pass, encoding_cost, forward_cost, update_cost
from fields.memory.operator_costs import OperatorCosts

UNCUT = ("qwen_image_edit",)
SEVERAL = ("flux2", "z_image_omni")
NO_TEXT = ("source", "guidance")


def _cases():
    for name in tiny_pipelines.PIPELINES:
        source = tiny_pipelines.FAMILIES[name].source
        several = (3,) if name in SEVERAL else ()
        yield from ((name, sources) for sources in {"none": (0,), "optional": (0, 1, *several), "required": (1,)}[source])


@pytest.mark.parametrize(("name", "sources"), list(_cases()))
def test_widest_inputs_are_those_of_a_prompt_that_is_cut(tiny, name, sources):
    family = tiny(name).family
    size = family.default_size
    first, *more = [encode_png(np.zeros((3, size[1], size[0]), dtype=np.float32))] * sources or [None]
    row = Row(uid="1", task="t", prompt="red circle " * 1000, source_image=first, more_sources=tuple(more))
    encoded = family.encode([row]).tensors
    widest = family.widest_inputs(1, size, sources)
    assert widest.keys() == encoded.keys()
    for tensor, given in ((widest[key], encoded[key]) for key in widest):
        assert tensor.ndim == given.ndim
        assert tensor.is_floating_point() == given.is_floating_point() or tensor.is_meta
    for key in widest.keys() - {"seen", "seen_2", "seen_3"}:  # how many patches SigLIP sees depends on its processor
        if name not in UNCUT or key in NO_TEXT:
            assert widest[key].shape == encoded[key].shape, key


@pytest.mark.parametrize(("name", "sources"), list(_cases()))
def test_costs_are_measured_without_values(tiny, name, sources):
    """Twice the samples are twice the operations of every layer that sees tokens, and recomputation repeats the forward."""
    family = tiny(name).family
    network = family.blueprint(tiny(name).folder).requires_grad_(True)
    assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    one, two = (forward_cost(family, network, Pass(n, family.default_size, sources)) for n in (1, 2))
    assert two.flops == pytest.approx(2 * one.flops, rel=0.02)
    assert one.peak_bytes < two.peak_bytes < 3 * one.peak_bytes
    kept = update_cost(family, network, Pass(1, family.default_size, sources))
    family.recompute_activations(network)
    recomputed = update_cost(family, network, Pass(1, family.default_size, sources))
    assert kept.flops < recomputed.flops <= kept.flops + one.flops
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_peak_is_what_a_real_backward_keeps_and_more(tiny):
    """The bytes that autograd saves in a real forward are alive at the peak."""
    family, folder = tiny("flux").family, tiny("flux").folder
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network = family.load_transformer(folder).requires_grad_(True)
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    row = Row(uid="1", task="t", prompt="red circle " * 1000)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        family.velocity(network, torch.randn(1, *family.latent_shape()), torch.tensor([0.5]), family.encode([row]))
    kept = sum(size for place, size in saved.items() if place not in weights)
    measured = update_cost(family, family.blueprint(folder).requires_grad_(True), Pass(1, family.default_size)).peak_bytes
    assert 0.5 * kept < measured < 3 * kept


@pytest.mark.parametrize("name", list(tiny_pipelines.PIPELINES))
def test_the_encoders_cost_is_what_decoding_takes_and_more(tiny, name):
    """Bytes that are alive while real values are decoded; of Z-Image's tiny parts nothing takes more than that."""
    family = tiny(name).family
    state = torch.zeros(1, *family.latent_shape())
    family.load_encoders()
    with OperatorCosts() as costs:
        family.decode(state)
    measured = encoding_cost(family, family.default_size, family.source != "none")
    assert measured >= 0.99 * costs.peak
    if name == "z_image":
        assert measured == pytest.approx(costs.peak, rel=0.01)
