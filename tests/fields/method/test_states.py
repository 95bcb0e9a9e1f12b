"""Where states come from, each by hand: noised data, the expert's own rollout, and the stochastic rollout's noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rollout_cases import rollouts

from fields.carriers import Condition, Weights
from fields.method.plan import Group, Sample, Stream, generator, noise
from fields.method.solver import Euler, EulerMaruyama
from fields.method.states import noised, queries, rolled_out
from fields.method.time_grid import time_grid
from fields.policy import Policy
from fields.student import LoraStudent
from fields.versions import Merged

GRID = time_grid(6, 3.0)
SHAPE = (2, 3)
SEED = 4


def group_of(*samples):
    """(id, indices) of each sample."""
    return Group(0, "local_edit", tuple(Sample(n, "local_edit", 0, indices) for n, indices in samples))


def condition(count):
    return Condition(tensors={"n": torch.arange(count)}, unconditional={})


def test_noised_data_lies_on_the_straight_path_of_the_plans_noise():
    group = group_of((10, (0, 2)), (11, (1, 5)), (17, (3, 4)))
    x_0 = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    states = noised(x_0, group, rollouts(SEED, GRID, None)(None))
    assert states.shape == (2, 3, *SHAPE)
    for row, sample in enumerate(group.samples):
        eps = generator(SEED, Stream.NOISE, sample.id).standard_normal(SHAPE, np.float32).astype(np.float64)
        for query, index in enumerate(sample.indices):
            t = float(GRID[index])
            expected = (1 - t) * x_0[row].double().numpy() + t * eps
            np.testing.assert_allclose(states[query, row], expected, rtol=1e-5, atol=1e-6)


def test_a_student_without_a_solver_is_asked_at_noised_data(family, new_base, local_edit, encoded):
    policy = Policy(family, Merged(new_base(), LoraStudent(local_edit.shape)), rollouts(SEED, GRID, None))
    policy.load(Weights.of(7, local_edit.tensors))
    group = group_of((10, (2, 4)), (11, (0, 5)))
    x_0 = torch.randn(2, *family.latent_shape(), generator=torch.Generator().manual_seed(0))
    ((first, second),) = policy.queries((group,), [replace(encoded("local_edit", 2), clean=x_0)])
    eps = noise(SEED, (10, 11), family.latent_shape())
    for query, t in ((first, GRID[[2, 0]]), (second, GRID[[4, 5]])):
        at = t.reshape(-1, 1, 1, 1)
        torch.testing.assert_close(query.x_t, (1 - at) * x_0 + at * eps)
        assert torch.equal(query.t, t)
        assert query.policy_version == 7
    assert second.t_next.tolist() == [GRID[5], GRID[6]]


def test_an_expert_rollout_is_the_experts_own_ode(local_field, encoded, family):
    """Against Euler steps by hand, one sample at a time."""
    group = group_of((10, (1, 4)), (11, (0, 2)))
    condition = encoded("local_edit", 2)
    asked = local_field.queries(group, condition, rollouts(SEED, GRID, Euler())(None))
    for row, sample in enumerate(group.samples):
        x, trajectory = noise(SEED, (sample.id,), family.latent_shape()), []
        for k in range(6):
            trajectory.append(x)
            one = condition.select(torch.tensor([row]))
            x = x + (GRID[k + 1] - GRID[k]) * local_field.velocity(x, GRID[k : k + 1], one)
        for query, index in zip(asked, sample.indices, strict=True):
            torch.testing.assert_close(query.x_t[row], trajectory[index][0], rtol=1e-4, atol=1e-4)
            assert float(query.t[row]) == float(GRID[index])
    assert [(query.policy_version, query.checksum) for query in asked] == [(-1, "local_edit")] * 2


def stochastic(group, seed=SEED):
    solver = EulerMaruyama(0.7)
    count = len(group.samples)
    settings = rollouts(seed, GRID, solver)(None)
    return rolled_out(lambda x, t, c: torch.zeros_like(x), (group,), condition(count), SHAPE, settings)


def test_the_noise_of_a_stochastic_rollout_is_decided_by_seed_id_and_step():
    together = stochastic(group_of((10, (1, 3)), (11, (2, 6)), (17, (4, 5))))
    for row, sample in enumerate(((10, (1, 3)), (11, (2, 6)), (17, (4, 5)))):
        torch.testing.assert_close(stochastic(group_of(sample))[:, 0], together[:, row])
    assert not torch.equal(stochastic(group_of((10, (1, 3))), seed=5)[:, 0], together[:, 0])


def test_a_stochastic_rollout_by_hand():
    """v = 0: x <- x (1 - s^2 dt / (2 t)) + s sqrt(dt) eps, with the noise of the TRANSITION stream."""
    (state,) = stochastic(group_of((10, (3,))))
    x = generator(SEED, Stream.NOISE, 10).standard_normal(SHAPE, np.float32).astype(np.float64)
    times = GRID.double().numpy()
    for k in range(3):
        t, dt = times[k], times[k] - times[k + 1]
        s = 0.7 * np.sqrt(t / (1 - min(t, times[1])))
        eps = generator(SEED, Stream.TRANSITION, 10, k).standard_normal(SHAPE, np.float32)
        x = x * (1 - s**2 * dt / (2 * t)) + s * np.sqrt(dt) * eps
    np.testing.assert_allclose(state[0], x, rtol=1e-5, atol=1e-6)


def test_a_state_that_is_not_finite_is_named():
    group = group_of((10, (1,)), (11, (2,)))
    states = torch.zeros(1, 2, *SHAPE)
    states[0, 1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="sample 11 at t"):
        queries(group, states, condition(2), rollouts(SEED, GRID, None)(None), (3, "abc"))
