import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fields.carriers import Condition
from fields.operators import Guidance, Identity

X_T = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.9, 0.5, 0.1])
CONDITION = Condition(
    tensors={"words": torch.tensor([[3.0], [4.0], [5.0]]), "source": torch.tensor([[10.0], [20.0], [30.0]])},
    unconditional={"words": torch.zeros(3, 1)},
)


class Network:
    """v = x (words + 1) + t + source / 7, and what it was called with."""

    def __init__(self, dtype=torch.float32):
        self.dtype = dtype
        self.calls = []

    def __call__(self, x_t, t, condition):
        self.calls.append((x_t, t, condition))
        words, source = condition.tensors["words"], condition.tensors["source"]
        return (x_t * (words + 1)[:, None] + t[:, None, None] + source[:, None] / 7).to(self.dtype)


def expected(words):
    x, t, source = X_T.double(), T.double(), CONDITION.tensors["source"].double()
    return (x * (words.double() + 1)[:, None] + t[:, None, None] + source[:, None] / 7).numpy()


def test_identity_is_the_network():
    network = Network()
    np.testing.assert_allclose(Identity().apply(network, X_T, T, CONDITION), expected(CONDITION.tensors["words"]), rtol=1e-6)
    assert [len(x_t) for x_t, _, _ in network.calls] == [3]


@given(st.floats(-4, 12))
def test_guidance_is_its_formula_in_float64(scale):
    v_c, v_u = expected(CONDITION.tensors["words"]), expected(CONDITION.unconditional["words"])
    guided = Guidance(scale).apply(Network(), X_T, T, CONDITION)
    np.testing.assert_allclose(guided, v_u + scale * (v_c - v_u), rtol=1e-5, atol=1e-4)


def test_scale_1_is_the_conditional_branch_and_scale_0_the_unconditional_one():
    one, zero = (Guidance(scale).apply(Network(), X_T, T, CONDITION) for scale in (1.0, 0.0))
    np.testing.assert_allclose(one, expected(CONDITION.tensors["words"]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(zero, expected(CONDITION.unconditional["words"]), rtol=1e-6)


def test_both_branches_are_one_call_at_the_same_states():
    network = Network()
    Guidance(3.0).apply(network, X_T, T, CONDITION)
    assert len(network.calls) == 1
    x_t, t, condition = network.calls[0]
    assert torch.equal(x_t, torch.cat([X_T, X_T]))
    assert torch.equal(t, torch.cat([T, T]))
    assert len(condition) == 6


def test_the_source_image_stays_in_the_unconditional_branch():
    network = Network()
    Guidance(3.0).apply(network, X_T, T, CONDITION)
    condition = network.calls[0][2]
    assert condition.tensors["source"].flatten().tolist() == [10, 20, 30, 10, 20, 30]
    assert condition.tensors["words"].flatten().tolist() == [3, 4, 5, 0, 0, 0]


@pytest.mark.parametrize("operator", [Identity(), Guidance(7.3)])
def test_bfloat16_networks_are_combined_in_float32(operator):
    v_c = torch.tensor(expected(CONDITION.tensors["words"])).bfloat16().double().numpy()
    v_u = torch.tensor(expected(CONDITION.unconditional["words"])).bfloat16().double().numpy()
    answer = operator.apply(Network(torch.bfloat16), X_T, T, CONDITION)
    assert answer.dtype == torch.float32
    np.testing.assert_allclose(answer, v_c if isinstance(operator, Identity) else v_u + 7.3 * (v_c - v_u), rtol=1e-5, atol=1e-5)


def test_guidance_of_the_scene_model_moves_away_from_the_empty_prompt(base_field, family, encoded, states):
    t, condition = torch.full((4,), 0.6), encoded("local_edit", 4)
    v_c = base_field.velocity(states, t, condition)
    v_u = base_field.velocity(states, t, condition.without_prompt())
    guided = Guidance(3.0).apply(base_field.velocity, states, t, condition)
    torch.testing.assert_close(guided, v_u + 3 * (v_c - v_u), rtol=1e-4, atol=1e-4)
    assert (v_c - v_u).norm() > 0.01 * v_c.norm()
