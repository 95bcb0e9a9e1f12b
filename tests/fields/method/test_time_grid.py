import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fields.method.time_grid import time_grid

STEPS = st.integers(1, 64)
SHIFTS = st.floats(0.1, 10)


@given(STEPS, SHIFTS)
def test_grid_is_the_closed_form(steps, shift):
    expected = [shift * u / (1 + (shift - 1) * u) for u in (1 - k / steps for k in range(steps + 1))]
    np.testing.assert_allclose(time_grid(steps, shift).double().numpy(), expected, rtol=1e-7, atol=1e-12)


@given(STEPS, SHIFTS)
def test_grid_falls_from_exactly_1_to_exactly_0(steps, shift):
    grid = time_grid(steps, shift)
    assert grid.dtype == torch.float32
    assert len(grid) == steps + 1
    assert (grid[0].item(), grid[-1].item()) == (1.0, 0.0)
    assert (grid.diff() < 0).all()


def test_shift_3_by_hand():
    assert time_grid(4, 3.0).tolist() == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])


@pytest.mark.parametrize(("steps", "shift"), [(0, 1.0), (-1, 1.0), (4, 0.0), (4, -1.0), (4, math.nan)])
def test_impossible_grids_are_refused(steps, shift):
    with pytest.raises(ValueError, match="steps" if steps < 1 else "shift"):
        time_grid(steps, shift)
