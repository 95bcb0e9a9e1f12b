import numpy as np
import pytest
import torch

from fields.carriers import Condition
from fields.evaluation.disagreement import disagreements
from fields.method.time_grid import time_grid

GRID = time_grid(4)
NOISE = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
CONDITION = Condition(tensors={"name": torch.arange(3)}, unconditional={})


def linear(factor):
    return lambda x, t, condition: factor * x


def test_two_linear_fields_differ_by_their_factors_at_the_students_own_states():
    """Along dx/dt = x the Euler state is the noise times a product of steps; c x and d x have cosine sign(c d)."""
    measured = disagreements(linear(1.0), {"twice": linear(2.0), "against": linear(-1.0)}, NOISE, GRID, CONDITION)
    assert list(measured) == [("student", "twice"), ("student", "against"), ("twice", "against")]
    times = [1.0, 0.75, 0.5, 0.25]
    for pair, cosine, factor in ((("student", "twice"), 1.0, 1.0), (("student", "against"), -1.0, 2.0)):
        for k, point in enumerate(measured[pair]):
            state = NOISE.double().numpy() * 0.75**k
            assert point.t == times[k]
            assert point.cosine == pytest.approx(cosine, abs=1e-5)
            assert point.difference == pytest.approx(factor * np.sqrt((state**2).mean(axis=(1, 2))).mean(), rel=1e-5)


def test_a_student_that_is_its_expert_has_no_difference():
    measured = disagreements(linear(0.5), {"same": linear(0.5)}, NOISE, GRID, CONDITION)
    assert {point.difference for point in measured["student", "same"]} == {0.0}
