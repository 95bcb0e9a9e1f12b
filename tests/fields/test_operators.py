"""Each operator against its formula, written out one sample at a time in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fields.carriers import Condition, Variant
from fields.operators import (
    AdaptiveProjectedGuidance,
    Autoguidance,
    EditGuidance,
    Guidance,
    Interpolation,
    Mix,
    Network,
    Rescale,
    ZeroStarGuidance,
    evaluate,
)

X_T = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.9, 0.5, 0.1])
CONDITION = Condition(
    tensors={"words": torch.tensor([[3.0], [4.0], [5.0]]), "source": torch.tensor([[10.0], [20.0], [30.0]])},
    unconditional={"words": torch.zeros(3, 1)},
    negative={"words": torch.tensor([[-2.0], [-3.0], [2.0]])},
    source_names=("source",),
)
A, B = Network("a"), Network("b")
GAIN = {"a": 1.0, "b": 0.25}


class Linear:
    """v = gain x (words + 1) + t + source / 7, without its last term where no source is given; and what it was called with."""

    def __init__(self, gain, dtype=torch.float32):
        self.gain, self.dtype = gain, dtype
        self.calls = []

    def __call__(self, x_t, t, condition):
        self.calls.append((x_t, t, condition))
        words = condition.tensors["words"]
        source = condition.tensors.get("source", torch.zeros_like(words))
        return (self.gain * x_t * (words + 1)[:, None] + t[:, None, None] + source[:, None] / 7).to(self.dtype)


def networks(dtype=torch.float32):
    return {name: Linear(gain, dtype) for name, gain in GAIN.items()}


def at(expression, called=None, variant=None):
    return evaluate(expression, called or networks(), X_T, T, CONDITION, variant or Variant())


def exact(words, network="a", source=True):
    """The network's velocity in float64."""
    x, t = X_T.double(), T.double()
    image = CONDITION.tensors["source"].double() / 7 if source else torch.zeros(3, 1, dtype=torch.float64)
    return (GAIN[network] * x * (words.double() + 1)[:, None] + t[:, None, None] + image[:, None]).numpy()


V_C, V_B = (exact(CONDITION.tensors["words"], network) for network in "ab")
V_U = exact(CONDITION.unconditional["words"])
V_N = exact(CONDITION.negative["words"])
V_0 = exact(CONDITION.unconditional["words"], source=False)


def each(formula, *velocities):
    return np.stack([formula(*sample) for sample in zip(*velocities, strict=True)])


def cfg_zero(v_c, v_u):
    s = (v_c * v_u).sum() / (v_u**2).sum()
    return s * v_u + 2.5 * (v_c - s * v_u)


def apg(parallel, largest_norm):
    def formula(v_c, v_u):
        d = v_c - v_u
        d = d * min(1.0, largest_norm / np.sqrt((d**2).mean()))
        direction = v_c / np.sqrt((v_c**2).sum())
        along = (d * direction).sum() * direction
        return v_c + (4.0 - 1) * ((d - along) + parallel * along)

    return formula


def rescale(v, v_c):
    return 0.7 * v * v_c.std(ddof=1) / v.std(ddof=1) + 0.3 * v


def guided(scale, v_c=V_C, v_u=V_U):
    return v_u + scale * (v_c - v_u)


INSIDE = np.array([False, True, False])[:, None, None]
FORMULAS = {
    "network": (A, V_C),
    "guidance": (Guidance(A, 7.3), guided(7.3)),
    "interval": (Guidance(A, 7.3, (0.4, 0.6)), np.where(INSIDE, guided(7.3), V_C)),
    "negative prompt": (Guidance(A, 3.0, prompt="negative"), guided(3.0, v_u=V_N)),
    "cfg-zero": (ZeroStarGuidance(A, 2.5), each(cfg_zero, V_C, V_U)),
    "cfg-zero, zero at first": (
        ZeroStarGuidance(A, 2.5, zero_above=0.5),
        each(cfg_zero, V_C, V_U) * np.array([0, 1, 1])[:, None, None],
    ),
    "apg": (AdaptiveProjectedGuidance(A, 4.0, 0.25), each(apg(0.25, np.inf), V_C, V_U)),
    "apg, clipped": (AdaptiveProjectedGuidance(A, 4.0, 0.0, 4.0), each(apg(0.0, 4.0), V_C, V_U)),
    "edit guidance": (EditGuidance(A, 1.5, 7.0), V_0 + 1.5 * (V_U - V_0) + 7.0 * (V_C - V_U)),
    "autoguidance": (Autoguidance(A, B, 2.5), V_B + 2.5 * (V_C - V_B)),
    "interpolation": (Interpolation(A, B, 0.3), 0.7 * V_C + 0.3 * V_B),
    "extrapolation": (Interpolation(A, B, -0.5), 1.5 * V_C - 0.5 * V_B),
    "mix": (Mix(((A, 0.2), (B, 0.5), (Guidance(A, 3.0), 0.3))), 0.2 * V_C + 0.5 * V_B + 0.3 * guided(3.0)),
    "rescale": (Rescale(Guidance(A, 6.0), 0.7), each(rescale, guided(6.0), V_C)),
    "rescale of rescale": (
        Rescale(Rescale(Guidance(A, 6.0), 0.7), 0.7),
        each(rescale, each(rescale, guided(6.0), V_C), V_C),
    ),
    "rescale of edit guidance": (
        Rescale(EditGuidance(A, 1.5, 7.0), 0.7),
        each(rescale, V_0 + 1.5 * (V_U - V_0) + 7.0 * (V_C - V_U), V_C),
    ),
    "rescale of a mix of guided fields": (
        Rescale(Mix(((Guidance(A, 6.0), 0.25), (B, 0.75))), 0.7),
        each(rescale, 0.25 * guided(6.0) + 0.75 * V_B, 0.25 * V_C + 0.75 * V_B),
    ),
    "rescale of an interpolation of guided fields": (
        Rescale(Interpolation(Guidance(A, 6.0), B, 0.4), 0.7),
        each(rescale, 0.6 * guided(6.0) + 0.4 * V_B, 0.6 * V_C + 0.4 * V_B),
    ),
    "guidance of guidance": (Guidance(Guidance(A, 3.0), 2.0), V_U + 2.0 * (guided(3.0) - V_U)),
    "negative prompt of guidance": (
        Guidance(Guidance(A, 3.0), 2.0, prompt="negative"),
        guided(3.0, v_c=V_N) + 2.0 * (guided(3.0) - guided(3.0, v_c=V_N)),
    ),
    "autoguidance of guidance": (Autoguidance(Guidance(A, 3.0), B, 2.0), V_B + 2.0 * (guided(3.0) - V_B)),
}


@pytest.mark.parametrize(("expression", "formula"), FORMULAS.values(), ids=FORMULAS.keys())
def test_an_operator_is_its_formula_in_float64(expression, formula):
    answer = at(expression)
    assert answer.dtype == torch.float32
    np.testing.assert_allclose(answer, formula, rtol=2e-5, atol=2e-4)


@settings(max_examples=30)
@given(st.floats(-4, 12))
def test_guidance_at_any_scale(scale):
    np.testing.assert_allclose(at(Guidance(A, scale)), guided(scale), rtol=1e-5, atol=1e-4)


def test_scale_1_is_the_conditional_branch_and_scale_0_the_unconditional_one():
    np.testing.assert_allclose(at(Guidance(A, 1.0)), V_C, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(at(Guidance(A, 0.0)), V_U, rtol=1e-6)


@pytest.mark.parametrize(
    ("interval", "inside"),
    [((0.5, 0.9), [1, 1, 0]), ((0.1, 0.5), [0, 1, 1]), ((0.1, 0.9), [1, 1, 1]), ((0.51, 0.89), [0, 0, 0])],
)
def test_both_ends_of_the_interval_are_guided(interval, inside):
    expected = np.where(np.array(inside, bool)[:, None, None], guided(5.0), V_C)
    np.testing.assert_allclose(at(Guidance(A, 5.0, interval)), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("zero_above", [0.9, 1.0])
def test_cfg_zero_moves_at_t_zero_above_itself(zero_above):
    np.testing.assert_allclose(at(ZeroStarGuidance(A, 2.5, zero_above)), each(cfg_zero, V_C, V_U), rtol=2e-5, atol=2e-4)


def test_cfg_zero_of_a_field_that_is_zero_without_prompt_is_finite():
    answer = evaluate(ZeroStarGuidance(A, 2.5), {"a": lambda x_t, t, c: x_t * c.tensors["words"][:, None]}, X_T, T, CONDITION)
    np.testing.assert_allclose(answer, 2.5 * X_T * CONDITION.tensors["words"][:, None], rtol=1e-6)


@pytest.mark.parametrize(
    "expression", [Guidance(A, 3.0), Guidance(Guidance(A, 3.0), 1.0, prompt="negative"), Rescale(Guidance(A, 3.0), 0.0)]
)
def test_without_its_prompt_an_expression_has_no_guidance(expression):
    """What PDM asks an expert for."""
    np.testing.assert_allclose(at(expression, variant=Variant(prompt="empty")), V_U, rtol=1e-5, atol=1e-5)


ROWS_OF_CALLS = {  # per network the rows of each of its calls
    "guidance": {"a": [6], "b": []},
    "interval": {"a": [6], "b": []},
    "negative prompt": {"a": [6], "b": []},
    "autoguidance": {"a": [3], "b": [3]},
    "mix": {"a": [6], "b": [3]},
    "rescale": {"a": [6], "b": []},
    "guidance of guidance": {"a": [6], "b": []},
    "negative prompt of guidance": {"a": [9], "b": []},
    "autoguidance of guidance": {"a": [6], "b": [3]},
    "edit guidance": {"a": [6, 3], "b": []},
    "rescale of edit guidance": {"a": [6, 3], "b": []},
}


@pytest.mark.parametrize("name", ROWS_OF_CALLS)
def test_a_network_is_called_once_for_each_layout_of_its_conditions(name):
    """Without its source image a condition is shorter: a forward of its own."""
    called = networks()
    at(FORMULAS[name][0], called)
    assert {n: [len(x_t) for x_t, _, _ in net.calls] for n, net in called.items()} == ROWS_OF_CALLS[name]


def test_both_branches_are_at_the_same_states_and_keep_the_source():
    called = networks()
    at(Guidance(A, 3.0), called)
    ((x_t, t, condition),) = called["a"].calls
    assert torch.equal(x_t, torch.cat([X_T, X_T]))
    assert torch.equal(t, torch.cat([T, T]))
    assert condition.tensors["source"].flatten().tolist() == [10, 20, 30, 10, 20, 30]
    assert condition.tensors["words"].flatten().tolist() == [3, 4, 5, 0, 0, 0]


@pytest.mark.parametrize("name", ["network", "guidance", "mix", "edit guidance"])
def test_bfloat16_networks_are_combined_in_float32(name):
    """Against the same expression of velocities that were rounded first and combined in float64."""

    def rounded(network):
        return lambda x_t, t, condition: network(x_t, t, condition).float()

    answer = at(FORMULAS[name][0], networks(torch.bfloat16))
    expected = at(FORMULAS[name][0], {n: rounded(network) for n, network in networks(torch.bfloat16).items()})
    assert answer.dtype == torch.float32
    assert torch.equal(answer, expected)
    v_c, v_u = (torch.tensor(v).bfloat16().double().numpy() for v in (V_C, V_U))
    if name == "guidance":
        np.testing.assert_allclose(answer, v_u + 7.3 * (v_c - v_u), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("expression", "message"),
    [(Guidance(A, 2.0, prompt="negative"), "no negative_prompt"), (EditGuidance(A, 1.0, 2.0), "no source_image")],
)
def test_rows_that_lack_what_an_operator_needs_are_refused(expression, message):
    bare = Condition(tensors={"words": torch.ones(3, 1)}, unconditional={"words": torch.zeros(3, 1)})
    with pytest.raises(ValueError, match=message):
        evaluate(expression, networks(), X_T, T, bare)


def test_guidance_of_the_scene_model_moves_away_from_the_empty_prompt(base_field, encoded, states):
    t, condition = torch.full((4,), 0.6), encoded("local_edit", 4)
    v_c = base_field.velocity(states, t, condition)
    v_u = base_field.velocity(states, t, condition, Variant(prompt="empty"))
    guided = evaluate(Guidance(Network("base"), 3.0), {"base": base_field.velocity}, states, t, condition)
    torch.testing.assert_close(guided, v_u + 3 * (v_c - v_u), rtol=1e-4, atol=1e-4)
    assert (v_c - v_u).norm() > 0.01 * v_c.norm()
