from itertools import pairwise

import numpy as np
import pytest
import torch
from rollout_cases import rollouts
from torch.utils._python_dispatch import TorchDispatchMode

from fields.carriers import Variant, Weights
from fields.field import Field
from fields.lora.adapter import LoraShape
from fields.method.plan import Group, Sample, noise
from fields.method.solver import Euler
from fields.method.time_grid import time_grid
from fields.policy import Policy
from fields.student import LoraStudent
from fields.versions import Merged

GRID = time_grid(6, 3.0)


@pytest.fixture
def policy(family, new_base, local_edit):
    return Policy(family, Merged(new_base(), LoraStudent(local_edit.shape)), rollouts(4, GRID, Euler()))


@pytest.fixture
def versions(local_edit, global_edit):
    return Weights.of(7, local_edit.tensors), Weights.of(8, global_edit.tensors)


def bits(policy):
    return {name: tensor.clone() for name, tensor in policy.transformer.state_dict().items()}


def same_bits(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_merged_weights_compute_what_peft_computes_unmerged(policy, versions, local_field, base_field, encoded, states):
    t, condition = torch.tensor([1.0, 0.8, 0.5, 0.3]), encoded("local_edit", 4)
    policy.load(versions[0])
    with torch.no_grad():
        merged = policy.velocity(states, t, condition)
    unmerged = local_field.velocity(states, t, condition)
    assert (merged - unmerged).norm() < 1e-5 * unmerged.norm()
    assert (unmerged - base_field.velocity(states, t, condition)).norm() > 0.01 * unmerged.norm()


@pytest.mark.parametrize("module", ["blocks.0.to_qkv", "patch_in", "blocks.1.modulation"])
def test_a_merged_weight_is_w_plus_scale_b_a(family, new_base, versions, module):
    policy = Policy(family, Merged(new_base(), LoraStudent(LoraShape(8, 2.0, ()))), rollouts(0, GRID, Euler()))
    before = policy.transformer.get_parameter(f"{module}.weight").double().numpy().copy()
    policy.load(versions[0])
    a, b = (versions[0].tensors[f"{module}.lora_{side}.weight"].double().numpy() for side in "AB")
    merged = policy.transformer.get_parameter(f"{module}.weight").double().numpy()
    np.testing.assert_allclose(merged, before + 0.25 * b @ a, rtol=1e-5, atol=1e-6)


class Products(TorchDispatchMode):
    """The devices on which matrices are multiplied."""

    def __init__(self):
        super().__init__()
        self.devices = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default:
            self.devices.append(result.device.type)
        return result


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_b_a_is_multiplied_where_the_base_lies(local_edit, device):
    """A version is on the CPU. The dense difference would be computed there, and is many times what B and A are."""
    base = torch.zeros(192, 48, dtype=torch.bfloat16, device=device)
    with Products() as products:
        weight = LoraStudent(local_edit.shape).weight("blocks.1.ff_in.weight", base, local_edit.tensors)
    assert products.devices == [device]
    assert (weight.device.type, weight.dtype) == (device, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_versions_leave_nothing_behind(family, new_base, versions, dtype):
    policy = Policy(family, Merged(new_base().to(dtype), LoraStudent(LoraShape(8, 8.0, ()))), rollouts(0, GRID, Euler()))
    base = bits(policy)
    policy.load(versions[0])
    first = bits(policy)
    policy.load(versions[1])
    second = bits(policy)
    policy.load(versions[0])
    assert same_bits(bits(policy), first)
    policy.load(versions[1])
    assert same_bits(bits(policy), second)
    policy.load(None)
    assert same_bits(bits(policy), base)
    assert not same_bits(first, base)
    assert not same_bits(first, second)


def test_a_version_of_fewer_modules_does_not_keep_the_others(policy, versions):
    fewer = Weights.of(9, {name: tensor for name, tensor in versions[1].tensors.items() if "blocks.0" in name})
    policy.load(fewer)
    alone = bits(policy)
    policy.load(versions[0])
    policy.load(fewer)
    assert same_bits(bits(policy), alone)


def test_a_query_is_the_students_state_at_each_samples_index(policy, versions, local_field, encoded):
    """Against Euler steps by hand, one sample at a time, with the adapter not merged."""
    group = Group(2, "local_edit", tuple(Sample(n, "local_edit", 0, (index,)) for n, index in ((30, 0), (31, 5), (37, 2))))
    condition = encoded("local_edit", 3)
    policy.load(versions[0])
    ((query,),) = policy.queries((group,), [condition])
    assert query.sample_ids == (30, 31, 37)
    assert (query.routes, query.policy_version, query.checksum) == (("local_edit",) * 3, 7, versions[0].checksum)
    assert query.t.tolist() == [GRID[0], GRID[5], GRID[2]]
    assert query.t_next.tolist() == [GRID[1], GRID[6], GRID[3]]
    for row, sample in enumerate(group.samples):
        x = noise(4, (sample.id,), (3, 24, 24))
        for k in range(sample.indices[0]):
            x = x + (GRID[k + 1] - GRID[k]) * local_field.velocity(x, GRID[k : k + 1], condition.select(torch.tensor([row])))
        torch.testing.assert_close(query.x_t[row], x[0], rtol=1e-4, atol=1e-4)


def test_a_query_needs_a_version(policy, encoded):
    group = Group(0, "local_edit", (Sample(0, "local_edit", 0, (1,)),))
    with pytest.raises(AssertionError, match="published version"):
        policy.queries((group,), [encoded("local_edit", 1)])


def test_a_student_that_diverges_is_named(policy, versions, encoded):
    broken = {name: tensor * 1e30 for name, tensor in versions[0].tensors.items()}
    policy.load(Weights.of(3, broken))
    group = Group(0, "local_edit", (Sample(11, "local_edit", 0, (3,)),))
    with pytest.raises(ValueError, match=r"policy version 3 .* sample 11 at t"):
        policy.queries((group,), [encoded("local_edit", 1)])


def test_an_experts_field_answers_with_its_own_network(family, new_base, local_edit, policy, versions, encoded):
    group = Group(0, "local_edit", (Sample(11, "local_edit", 0, (3,)), Sample(12, "local_edit", 0, (1,))))
    condition = encoded("local_edit", 2)
    policy.load(versions[1])
    ((query,),) = policy.queries((group,), [condition])
    field = Field.build("local_edit", family, {"local_edit": (new_base(), local_edit)})
    target = field.answer(query)
    assert (target.sample_ids, target.expert) == (query.sample_ids, "local_edit")
    assert torch.equal(target.velocity, field.velocity(query.x_t, query.t, condition))
    assert not any(parameter.requires_grad for parameter in field.transformers["local_edit"].parameters())


def test_an_experts_adapter_must_fit_in_full(family, new_base, local_edit):
    part = dict(list(local_edit.tensors.items())[:-1])
    with pytest.raises(ValueError, match="expert 'x': 1 tensors"):
        Field.build("x", family, {"x": (new_base(), type(local_edit)(local_edit.shape, part))})


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_generated_states_are_guided_euler_steps(policy, versions, encoded, scale):
    """x <- x + (t' - t) (v_u + scale (v_c - v_u)), written out."""
    policy.load(versions[0])
    condition, x = encoded("text_to_image", 3), noise(5, (0, 1, 2), policy.family.latent_shape())
    generated = policy.generate(x, GRID, condition, scale)
    for t, t_next in pairwise(GRID):
        with torch.no_grad():
            v_c, v_u = (
                policy.velocity(x, t.expand(3), condition.variant(seen)) for seen in (Variant(), Variant(prompt="empty"))
            )
        x = x + (t_next - t) * (v_u + scale * (v_c - v_u))
    torch.testing.assert_close(generated, x, rtol=1e-5, atol=1e-5)
