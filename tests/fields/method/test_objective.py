import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fields.carriers import Condition, Query, Target
from fields.method.objective import Prediction, PredictionDifference, TransitionKl, VelocityMse, squared_error
from fields.method.solver import EulerMaruyama
from fields.method.time_grid import time_grid


def fields_of(seed, *shape):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng), torch.randn(shape, generator=rng)


@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_each_samples_mean_square_in_float64(seed, batch, rows, columns):
    velocity, target = fields_of(seed, batch, rows, columns)
    difference = velocity.double().numpy() - target.double().numpy()
    np.testing.assert_allclose(squared_error(velocity, target).numpy(), (difference**2).mean(axis=(1, 2)), rtol=1e-5)


def test_by_hand():
    velocity = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    target = torch.tensor([[1.0, 4.0], [3.0, -1.0]])
    assert squared_error(velocity, target).tolist() == [2.0, 5.0]


def test_gradient_of_the_mean_is_twice_the_difference_over_the_elements():
    velocity, target = fields_of(0, 4, 3, 5)
    velocity.requires_grad_()
    squared_error(velocity, target).mean().backward()
    torch.testing.assert_close(velocity.grad, 2 * (velocity.detach() - target) / velocity.numel(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, 1.0), (torch.float32, 1.0), (torch.float16, 0.22)])
def test_gradients_at_1024_pixels_are_not_zero_but_in_float16(dtype, kept):
    """The gradient that enters a network of this type: 16 x 128 x 128 latents, a sample of 32, an error of a tenth.

    It is 2 x 0.1 z / (262144 x 32) with z normal. Float16 rounds all below 2^-25, which is |z| < 1.25, to 0: that is 79 %.
    """
    velocity = torch.zeros(1, 16, 128, 128, dtype=dtype, requires_grad=True)
    target = 0.1 * torch.randn(1, 16, 128, 128, generator=torch.Generator().manual_seed(0))
    (squared_error(velocity, target).sum() / 32).backward()
    assert velocity.grad is not None
    assert velocity.grad.count_nonzero() / velocity.numel() == pytest.approx(kept, abs=0.01)


def test_bfloat16_is_computed_in_float32():
    velocity, target = (v.bfloat16() for v in fields_of(1, 3, 1000))
    loss = squared_error(velocity, target)
    assert loss.dtype == torch.float32
    exact = (velocity.double() - target.double()).square().mean(dim=1)
    np.testing.assert_allclose(loss.double().numpy(), exact.numpy(), rtol=1e-5)  # bfloat16 would be off by 1e-3


# The objectives themselves, on a linear field v = x W^T whose gradient is known in closed form.

BATCH, ELEMENTS = 5, 6
GRID = time_grid(BATCH, 3.0)  # shifted: every step has another dt
ETA = 0.7


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def query_at(x_t, both_branches=False):
    """One sample at each step of the grid."""
    return Query(
        sample_ids=tuple(range(BATCH)),
        routes=("r",) * BATCH,
        policy_version=0,
        checksum="",
        x_t=x_t,
        t=GRID[:-1],
        t_next=GRID[1:],
        condition=Condition(tensors={"n": torch.arange(BATCH)}, unconditional={}),
        both_branches=both_branches,
    )


def target_of(velocity, unconditional=None):
    return Target(sample_ids=tuple(range(BATCH)), expert="e", t=GRID[:-1], velocity=velocity, unconditional=unconditional)


def transition_kl(n):
    """KL of two transitions that differ by 1 in velocity, in float64 from the stochastic solver's own step."""
    solver = EulerMaruyama(ETA)
    t, t_next = GRID[n].double(), GRID[n + 1].double()
    x = torch.tensor([[0.3]], dtype=torch.float64)

    def step(v, eps):
        return float(solver.step(lambda x, t: torch.full_like(x, v), x, t, t_next, torch.full_like(x, eps)))

    mean_difference, deviation = step(2.0, 0.0) - step(1.0, 0.0), step(1.0, 1.0) - step(1.0, 0.0)
    return mean_difference**2 / (2 * deviation**2)


T64, DT64 = GRID[:-1].double().numpy(), (GRID[:-1] - GRID[1:]).double().numpy()
WEIGHTS = {
    "mse": (VelocityMse(), np.ones(BATCH)),
    "clean image": (VelocityMse(2.0), T64**2),
    "any power": (VelocityMse(-0.5), T64**-0.5),
    "kl of the ode": (TransitionKl(), DT64**2 / 2),
    "kl of the sde": (TransitionKl(ETA), np.array([transition_kl(n) for n in range(BATCH)])),
}


@pytest.mark.parametrize(("objective", "weights"), WEIGHTS.values(), ids=WEIGHTS.keys())
def test_loss_and_gradient_of_a_linear_field_in_closed_form(objective, weights):
    """L = sum_i w_i |W x_i - u_i|^2 / d, dL/dW = sum_i 2 w_i (W x_i - u_i) x_i^T / d."""
    x, u, w = normal(0, BATCH, ELEMENTS), normal(1, BATCH, ELEMENTS), normal(2, ELEMENTS, ELEMENTS).requires_grad_()
    loss = objective.loss(Prediction(velocity=x @ w.T), target_of(u), query_at(x))
    loss.sum().backward()
    x, u, w64 = (tensor.detach().double().numpy() for tensor in (x, u, w))
    difference = x @ w64.T - u
    np.testing.assert_allclose(loss.detach().numpy(), weights * (difference**2).mean(axis=1), rtol=1e-4)
    gradient = 2 * (weights[:, None] * difference).T @ x / ELEMENTS
    np.testing.assert_allclose(w.grad.numpy(), gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())


def test_power_2_is_the_error_of_the_clean_image():
    """x_0 = x_t - t v."""
    x, v, u = (normal(seed, BATCH, ELEMENTS) for seed in (0, 1, 2))
    t = GRID[:-1, None]
    error = ((x - t * v) - (x - t * u)).square().mean(dim=1)
    torch.testing.assert_close(VelocityMse(2.0).loss(Prediction(velocity=v), target_of(u), query_at(x)), error)


def test_the_sde_has_a_finite_weight_at_noise_and_the_ode_form_is_the_uniform_grids():
    assert np.isfinite(TransitionKl(ETA).weight(1.0, float(GRID[1])))
    assert TransitionKl().weight(0.5, 0.25) == 1 / (2 * 4**2)


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_pdm_and_its_gradient_in_closed_form(weight):
    """v_c = W x, v_u = W y: the prompt's effect is W (x - y)."""
    x, y, u, u_u = (normal(seed, BATCH, ELEMENTS) for seed in range(4))
    w = normal(9, ELEMENTS, ELEMENTS).requires_grad_()
    student = Prediction(velocity=x @ w.T, unconditional=y @ w.T)
    loss = PredictionDifference(weight).loss(student, target_of(u, u_u), query_at(x, both_branches=True))
    loss.sum().backward()
    x, y, u, u_u, w64 = (tensor.detach().double().numpy() for tensor in (x, y, u, u_u, w))
    error, effect = x @ w64.T - u, (x - y) @ w64.T - (u - u_u)
    np.testing.assert_allclose(loss.detach(), (error**2).mean(axis=1) + weight * (effect**2).mean(axis=1), rtol=1e-4)
    gradient = 2 * (error.T @ x + weight * effect.T @ (x - y)) / ELEMENTS
    np.testing.assert_allclose(w.grad, gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())
