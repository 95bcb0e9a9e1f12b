import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fields.method.times import index_at, rollout_times

STEPS = st.integers(1, 64)
SHIFTS = st.floats(0.1, 10)
COORDINATES = ("index", "sigma", "logsnr")


@given(st.floats(0, 1), STEPS, SHIFTS, st.sampled_from(COORDINATES))
def test_the_clean_state_is_never_queried(u, steps, shift, coordinate):
    assert 0 <= index_at(u, rollout_times(steps, shift), coordinate) < steps


@pytest.mark.parametrize(("coordinate", "first", "last"), [("index", 0, 15), ("sigma", 0, 15), ("logsnr", 1, 15)])
@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_u_runs_from_the_noisiest_to_the_cleanest_query_point(coordinate, first, last, shift):
    times = rollout_times(16, shift)
    indices = [index_at(u, times, coordinate) for u in np.linspace(0, 1, 401)]
    assert (indices[0], indices[-1]) == (first, last)
    assert indices == sorted(indices)


@given(st.floats(0, 1, exclude_max=True), STEPS, SHIFTS)
def test_index_is_floor_whatever_the_shift(u, steps, shift):
    assert index_at(u, rollout_times(steps, shift), "index") == math.floor(steps * u)


@pytest.mark.parametrize("k", range(16))
def test_a_grid_time_is_its_own_sigma_query(k):
    times = rollout_times(16, 3.0)
    assert index_at(1 - times[k], times, "sigma") == k


@pytest.mark.parametrize("u", [0.03, 0.21, 0.47, 0.5, 0.68, 0.79, 0.93])
def test_sigma_is_the_nearest_time_of_a_shifted_grid(u):
    times = [3 * v / (1 + 2 * v) for v in (1 - k / 16 for k in range(16))]
    assert index_at(u, rollout_times(16, 3.0), "sigma") == min(range(16), key=lambda k: abs(times[k] - (1 - u)))


@pytest.mark.parametrize("u", [0.03, 0.21, 0.47, 0.5, 0.68, 0.79, 0.93])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_logsnr_is_the_nearest_of_the_spanned_range(u, shift):
    """In another form of the same quantity: for a shifted u-grid log((1 - t)^2 / t^2) = 2 log((1 - u) / u) - 2 log(shift)."""
    snr = {k: 2 * math.log((k / 16) / (1 - k / 16)) - 2 * math.log(shift) for k in range(1, 16)}
    wanted = (1 - u) * snr[1] + u * snr[15]
    assert index_at(u, rollout_times(16, shift), "logsnr") == min(snr, key=lambda k: abs(snr[k] - wanted))


def test_coordinates_of_one_u_differ_on_a_shifted_grid():
    """Index 8 of 16; sigma 0.5 = t_12 (u = 1/4); the middle of a symmetric log-SNR range = u-grid's middle."""
    times = rollout_times(16, 3.0)
    assert [index_at(0.5, times, coordinate) for coordinate in COORDINATES] == [8, 12, 8]


@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize("u", [0.0, 0.4, 1.0])
def test_one_step_is_always_asked_at_noise(coordinate, u):
    assert index_at(u, rollout_times(1), coordinate) == 0
