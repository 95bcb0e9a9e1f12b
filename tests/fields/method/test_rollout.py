import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fields.carriers import Condition
from fields.method.rollout import clean, rollout
from fields.method.solver import Euler, EulerMaruyama, Heun
from fields.method.time_grid import time_grid

N = 8
GRID = time_grid(N, 3.0)
TIMES = [3 * u / (1 + 2 * u) for u in (1 - k / N for k in range(N + 1))]


def names_of(count):
    """A condition that tells the samples apart."""
    return Condition(tensors={"name": torch.arange(count)}, unconditional={})


def start(count, *shape):
    return torch.randn(count, *(shape or (2, 3)), generator=torch.Generator().manual_seed(count))


def linear(x, t, condition):
    return x


def states_at(velocity, noise, index, condition):
    """Each sample's state at one grid index, by Euler's steps."""
    (states,) = rollout(velocity, noise, GRID, torch.tensor(index)[:, None], condition, Euler())
    return states


class Counting:
    """dx/dt = x, and who took part in which evaluation at which t."""

    def __init__(self):
        self.calls: list[tuple[list[int], list[float]]] = []

    def __call__(self, x, t, condition):
        assert len(x) == len(t) == len(condition)
        self.calls.append((condition.tensors["name"].tolist(), t.tolist()))
        return x


@given(st.lists(st.integers(0, N), min_size=1, max_size=10))
def test_a_sample_takes_part_in_exactly_index_evaluations(index):
    velocity = Counting()
    states_at(velocity, start(len(index)), index, names_of(len(index)))
    names = [name for called, _ in velocity.calls for name in called]
    assert [names.count(name) for name in range(len(index))] == index
    assert len(names) == sum(index)
    assert len(velocity.calls) == max(index)


def test_each_evaluation_is_at_its_own_grid_time():
    velocity = Counting()
    states_at(velocity, start(3), [2, N, 5], names_of(3))
    for (names, times), expected in zip(velocity.calls, TIMES, strict=False):
        assert times == pytest.approx([expected] * len(names), rel=1e-6)


@given(st.lists(st.integers(0, N), min_size=1, max_size=6))
def test_linear_field_is_the_product_of_its_euler_factors(index):
    x_T = start(len(index))
    x = states_at(linear, x_T, index, names_of(len(index)))
    for row, noise, stop in zip(x, x_T, index, strict=True):
        factor = np.prod([1 + TIMES[k + 1] - TIMES[k] for k in range(stop)])
        np.testing.assert_allclose(row.numpy(), noise.double().numpy() * factor, rtol=2e-6)


def test_constant_field_is_exact_at_every_index():
    """On the straight path eps - x_0 is constant and Euler has no error: x_t = (1 - t) x_0 + t eps."""
    eps, x_0 = start(N + 1), start(N + 1, 2, 3) + 2
    x = states_at(lambda x, t, c: (eps - x_0)[c.tensors["name"]], eps, list(range(N + 1)), names_of(N + 1))
    t = torch.tensor(TIMES, dtype=torch.float64)[:, None, None]
    np.testing.assert_allclose(x.numpy(), ((1 - t) * x_0 + t * eps).numpy(), atol=2e-6)
    np.testing.assert_allclose(x[N].numpy(), x_0[N].numpy(), atol=2e-6)


def test_index_0_returns_the_noise_without_an_evaluation():
    velocity, x_T = Counting(), start(3)
    x = states_at(velocity, x_T, [0, 0, 0], names_of(3))
    assert torch.equal(x, x_T)
    assert velocity.calls == []


@pytest.mark.parametrize("index", [[0, 0], [0, N]])
def test_the_noise_is_not_written_to(index):
    x_T = start(2)
    before = x_T.clone()
    x = states_at(linear, x_T, index, names_of(2))
    x.add_(1)
    assert torch.equal(x_T, before)


def test_bfloat16_velocities_are_scaled_and_added_in_float32():
    """In bfloat16, either the step times the velocity or the sum would be off by up to 2^-9."""
    velocity = torch.tensor([[1 + 2.0**-7, 3 - 2.0**-6, -0.7]], dtype=torch.bfloat16)
    x = states_at(lambda x, t, c: velocity, torch.ones(1, 3), [3], names_of(1))
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), 1 + (TIMES[3] - 1) * velocity.double().numpy(), rtol=1e-6)


def test_gradient_is_off():
    weight = torch.ones((), requires_grad=True)
    x = states_at(lambda x, t, c: weight * x, start(2).requires_grad_(), [3, 5], names_of(2))
    assert not x.requires_grad
    assert torch.is_grad_enabled()


def test_together_and_alone_are_the_same_states(base_field, encoded, states):
    index, condition = [0, 7, 3, N], encoded("local_edit", 4)
    together = states_at(base_field.velocity, states, index, condition)
    for row in range(4):
        one = torch.tensor([row])
        alone = states_at(base_field.velocity, states[one], [index[row]], condition.select(one))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-4)
    assert (together[1:] - states[1:]).flatten(1).norm(dim=1).min() > 1


@pytest.mark.parametrize("solver", [Euler(), Heun()])
def test_several_queries_are_the_states_of_one_rollout(solver):
    indices = torch.tensor([[0, 2, 5], [1, 2, 3], [3, 5, N]])
    velocity, x_T = Counting(), start(3)
    states = rollout(velocity, x_T, GRID, indices, names_of(3), solver)
    assert states.shape == (3, *x_T.shape)
    for query in range(3):
        (alone,) = rollout(linear, x_T, GRID, indices[:, query : query + 1], names_of(3), solver)
        assert torch.equal(states[query], alone)
    names = [name for called, _ in velocity.calls for name in called]
    steps_to = {Euler: [5, 3, N], Heun: [10, 6, 2 * N - 1]}[type(solver)]
    assert [names.count(name) for name in range(3)] == steps_to, "the last query of a sample ends its rollout"


def test_clean_is_the_state_at_the_end_of_the_grid():
    x_T = start(3)
    assert torch.equal(clean(linear, x_T, GRID, names_of(3), Euler()), states_at(linear, x_T, [N] * 3, names_of(3)))


def test_only_the_samples_under_way_draw_noise_and_each_step_draws_anew():
    asked = []

    def transition_noise(step, rows):
        asked.append((step, rows.tolist()))
        return torch.zeros(len(rows), 2, 3)

    rollout(linear, start(3), GRID, torch.tensor([[1], [0], [3]]), names_of(3), EulerMaruyama(0.7), transition_noise)
    assert asked == [(0, [0, 2]), (1, [2]), (2, [2])]
