"""Networks with weights of fewer bytes: how far they are from the exact ones, what they take, and that students learn."""

import pytest
import torch
from test_pipeline import row
from tiny_pipelines import PIPELINES, Tiny
from torch import nn

from fields.carriers import Example, Query, Target
from fields.distiller import Distiller, Optimization
from fields.families.quantization import Quantization, maker
from fields.families.quantized import largest_weight_bytes, loading_options, stored_bytes
from fields.field import Field
from fields.lora.adapter import LoraShape
from fields.operators import Network
from fields.shared_field import Member, SharedField
from fields.student import LoraStudent
from fields.versions import Unmerged

KINDS: list[Quantization] = ["int8", "fp8"]
ERRORS = {"int8": (0.01, 0.025), "fp8": (0.038, 0.11)}  # of a velocity's norm: least and most, as measured on the tiny networks
SCALES = {"int8": 5, "fp8": 4}  # bytes for each output: a float32 scale, and int8's zero point


def question(model: Tiny, samples: int = 1) -> Query:
    rng = torch.Generator().manual_seed(1)
    x_t = torch.randn(1, *model.family.latent_shape(), generator=rng).expand(samples, -1, -1, -1)
    return Query(
        sample_ids=tuple(range(samples)),
        routes=("r",) * samples,
        policy_version=0,
        checksum="",
        x_t=x_t,
        t=torch.linspace(0.75, 0.5, samples),
        t_next=torch.linspace(0.7, 0.45, samples),
        condition=model.family.encode([row(model.family)] * samples),
    )


@torch.no_grad()
def velocity(model: Tiny, network: nn.Module, query: Query) -> torch.Tensor:
    return model.family.velocity(network, query.x_t, query.t, query.condition)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PIPELINES)
def test_a_quantized_network_is_near_the_exact_one_in_fewer_bytes(tiny, name, kind):
    model, query = tiny(name), question(tiny(name))
    networks = [model.family.load_transformer(model.folder, kind) for _ in range(2)]
    exact = velocity(model, model.network, query)
    found = velocity(model, networks[0], query)
    least, most = ERRORS[kind]
    assert 0.9 * least < (found - exact).norm() / exact.norm() < 1.1 * most
    assert torch.equal(velocity(model, networks[1], query), found), "two loads answer alike"
    linear = {name: module.weight for name, module in model.network.named_modules() if isinstance(module, nn.Linear)}
    weights = [weight for name, weight in linear.items() if ".time_embedder." not in name or model.family.name != "wan"]
    saved = sum(3 * weight.numel() - SCALES[kind] * len(weight) for weight in weights)  # four bytes a value become one
    assert stored_bytes(networks[0], kind) == stored_bytes(model.network, "none") - saved
    assert stored_bytes(model.family.blueprint(model.folder, kind), kind) == stored_bytes(networks[0], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_networks_are_quantized_likewise(tiny, kind):
    model, query = tiny("sd3"), question(tiny("sd3"))
    family = type(model.family)(model.folder, torch.bfloat16, model.family.default_size)
    exact, found = (velocity(Tiny(None, model.folder, family, model.network), network, query) for network in (
        family.load_transformer(model.folder), family.load_transformer(model.folder, kind)
    ))  # fmt: skip
    assert 0.9 * ERRORS[kind][0] < (found - exact).norm() / exact.norm() < 1.1 * ERRORS[kind][1]


def dequantized(network: nn.Module) -> nn.Module:
    """The same network with the numbers that its weights stand for, in float32."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.dequantize(), requires_grad=False)
    return network


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sd3", "z_image"])
def test_a_student_learns_over_a_quantized_base_as_over_the_numbers_that_it_stands_for(tiny, name, kind, recompute):
    model, query = tiny(name), question(tiny(name), samples=3)
    student = LoraStudent(LoraShape(4, 4.0, model.family.default_lora_targets))
    target = Target(sample_ids=query.sample_ids, expert="e", t=query.t, velocity=velocity(model, model.network, query))
    optimization, losses = Optimization(learning_rate=3e-3, recompute=recompute), []
    for change in (lambda network: network, dequantized):
        base = change(model.family.load_transformer(model.folder, kind))
        learner = Distiller(model.family, base, student, optimization, seed=0)
        losses.append([learner.update([Example(query=query, target=target)]).loss for _ in range(20)])
    assert losses[0][-1] < 0.5 * losses[0][0], "it mends what rounding the weights broke"
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_over_the_numbers_that_a_quantized_base_stands_for(tiny, kind):
    model, query = tiny("sd3"), question(tiny("sd3"), samples=3)
    student = LoraStudent(LoraShape(4, 4.0, model.family.default_lora_targets))
    gradients = []
    for change in (lambda network: network, dequantized):
        learner = Distiller(model.family, change(model.family.load_transformer(model.folder, kind)), student, Optimization(), 0)
        learner.predict(query).velocity.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in learner.parameters.items()})
    assert any(gradient.norm() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).norm() <= 1e-5 * gradients[1][name].norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_with_an_unmerged_adapter_computes_what_the_learner_does(tiny, kind):
    model, query = tiny("flux2"), question(tiny("flux2"))
    student = LoraStudent(LoraShape(4, 4.0, model.family.default_lora_targets))
    learner = Distiller(model.family, model.family.load_transformer(model.folder, kind), student, Optimization(), 0)
    rng = torch.Generator().manual_seed(2)
    tensors = {key: 0.1 * torch.randn(value.shape, generator=rng) for key, value in learner.parameters.items()}
    learner.restore(tensors, tensors, {}, 0)
    worker = Unmerged(model.family.load_transformer(model.folder, kind), student.shape)
    bare = velocity(model, worker.transformer, query)
    worker.load(tensors)
    assert torch.equal(velocity(model, worker.transformer, query), learner.velocity(query))
    worker.load(None)
    assert torch.equal(velocity(model, worker.transformer, query), bare)


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_experts_that_share_a_base_answer_as_separate_ones(
    family, tiny_models, local_edit, global_edit, encoded, states, kind
):
    adapters = {"local_edit": local_edit, "global_edit": global_edit}
    members = {name: Member(Network("0"), (name,)) for name in adapters}
    base = family.load_transformer(tiny_models.base, kind)
    shared = SharedField(family, base, adapters, members, torch.device("cpu"))
    asked = states, torch.tensor([0.9, 0.6, 0.4, 0.2]), encoded("local_edit", 4)
    for name, adapter in adapters.items():
        own = Field.build(name, family, {name: (family.load_transformer(tiny_models.base, kind), adapter)})
        expected = own.velocity(*asked)
        assert (shared.velocity(name, *asked) - expected).norm() <= 1e-5 * expected.norm()


def test_nf4_is_counted_though_no_cpu_makes_it():
    """Half a byte a value, and a float32 scale for every 64; bfloat16 biases stay."""
    network = nn.Sequential(nn.Linear(128, 64), nn.LayerNorm(64), nn.Linear(64, 32)).to(torch.bfloat16)
    assert stored_bytes(network, "none") == 2 * (128 * 64 + 64 + 2 * 64 + 64 * 32 + 32)
    assert stored_bytes(network, "nf4") == (128 * 64 + 64 * 32) * 9 / 16 + 2 * (64 + 2 * 64 + 32)
    assert largest_weight_bytes(network) == 2 * 128 * 64


def test_a_library_that_is_not_installed_is_named():
    assert (maker("int8") or "").startswith("torchao ")
    with pytest.raises(ValueError, match=r"nf4 needs bitsandbytes, which isn't installed: pip install 'fieldweave\[bitsandb"):
        loading_options("nf4", torch.bfloat16)
