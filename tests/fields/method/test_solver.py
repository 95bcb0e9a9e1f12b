"""The solvers against closed forms: linear equations, and Gaussian data, whose velocity is known exactly."""

import math

import numpy as np
import pytest
import torch

from fields.carriers import Condition
from fields.method.rollout import clean, rollout
from fields.method.solver import Euler, EulerMaruyama, Heun
from fields.method.time_grid import time_grid

MANY = 20_000


def condition(count):
    return Condition(tensors={"name": torch.arange(count)}, unconditional={})


def normal(count, seed, *shape):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


class Growth:
    """dx/dt = 1.5 x, solved by x(0) = x(1) e^-1.5; counts its evaluations."""

    evaluations = 0

    def __call__(self, x, t, condition):
        self.evaluations += 1
        return 1.5 * x


def error(solver, steps):
    end = clean(Growth(), torch.ones(1, 1), time_grid(steps), condition(1), solver)
    return abs(float(end) - math.exp(-1.5))


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Heun(), 2)])
def test_the_error_falls_with_the_order_of_the_solver(solver, order):
    for steps in (8, 16):
        assert error(solver, steps) / error(solver, 2 * steps) == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize(("solver", "evaluations"), [(Euler(), lambda n: n), (Heun(), lambda n: 2 * n - 1)])
def test_evaluations_of_a_whole_rollout(steps, solver, evaluations):
    velocity = Growth()
    clean(velocity, torch.ones(2, 3), time_grid(steps, 3.0), condition(2), solver)
    assert velocity.evaluations == evaluations(steps)


def test_a_step_of_heun_by_hand():
    """dx/dt = t x from t = 0.8 to 0.6: slopes 0.8 x, and 0.6 (x - 0.2 0.8 x) at Euler's state."""
    t, t_next = torch.tensor(0.8), torch.tensor(0.6)
    x = Heun().step(lambda x, t: t[:, None] * x, torch.tensor([[2.0]]), t, t_next, None)
    assert float(x) == pytest.approx(2 - 0.2 * (0.8 * 2 + 0.6 * (2 - 0.2 * 0.8 * 2)) / 2)


def test_bfloat16_velocities_are_added_in_float32():
    v = torch.tensor([[1 + 2.0**-7, 3 - 2.0**-6]], dtype=torch.bfloat16)
    x = torch.tensor([[0.3, -0.2]])
    at, exact = (torch.tensor(0.6), torch.tensor(0.5)), x.double() - (0.6 - 0.5) * v.double()
    for solver in (Euler(), Heun()):
        step = solver.step(lambda x, t: v, x, *at, None)
        assert step.dtype == torch.float32
        torch.testing.assert_close(step.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("t", "t_next"), [(1.0, 0.9375), (0.9, 0.7), (0.5, 0.4), (0.1, 0.0)])
def test_a_stochastic_step_has_the_mean_and_variance_of_the_reverse_sde(t, t_next):
    """dx = (v - s^2 / 2 score) dt + s dw with score = -(x + (1 - t) v) / t; s at t = 1 is the one at the grid's second time."""
    eta, x, dt = 0.7, 0.8, t - t_next
    v = 1.5 * x - t
    s = eta * math.sqrt(t / (1 - (t_next if t == 1 else t)))
    score = -(x + (1 - t) * v) / t
    mean, variance = x - (v - s**2 / 2 * score) * dt, s**2 * dt
    solver, at = EulerMaruyama(eta), (torch.tensor(t), torch.tensor(t_next))
    velocity, start = (lambda x, t: 1.5 * x - t[:, None]), torch.full((MANY, 1), x)
    end = solver.step(velocity, start, *at, normal(MANY, 3, 1)).double().numpy()
    assert abs(end.mean() - mean) < 4.5 * math.sqrt(variance / MANY)
    assert abs(end.var() / variance - 1) < 4.5 * math.sqrt(2 / MANY)


def gaussian_velocity(mean, deviation):
    """E[eps - x_0 | x_t] of data N(mean, deviation^2)."""

    def velocity(x, t, condition):
        t = t[:, None]
        z = (x - (1 - t) * mean) / ((1 - t) ** 2 * deviation**2 + t**2)
        return t * z - mean - (1 - t) * deviation**2 * z

    return velocity


@pytest.mark.parametrize("solver", [Euler(), Heun(), EulerMaruyama(0.7)])
def test_rollouts_of_gaussian_data_have_the_marginals_of_the_path(solver):
    """x_t ~ N((1 - t) m, (1 - t)^2 c^2 + t^2): the SDE's noise and its drift balance at every t."""
    grid, mean, deviation = time_grid(100), 2.0, 0.5
    indices = torch.tensor([[30, 60, 100]]).expand(MANY, 3)
    states = rollout(
        gaussian_velocity(mean, deviation),
        normal(MANY, 0, 1),
        grid,
        indices,
        condition(MANY),
        solver,
        lambda step, rows: normal(len(rows), 1000 + step, 1),
    )
    for x, t in zip(states.double().numpy(), grid[indices[0]].tolist(), strict=True):
        variance = (1 - t) ** 2 * deviation**2 + t**2
        assert abs(x.mean() - (1 - t) * mean) < 0.03
        np.testing.assert_allclose(x.var(), variance, rtol=0.06)
