import numpy as np
import pytest

from fields.query import BetaQuery, UniformQuery
from fields.schedule import time_grid

DRAWS = 20_000
FEWER = 6_000  # where a draw searches the grid


def frequencies(query, grid, draws=DRAWS):
    rng = np.random.default_rng(11)
    return np.bincount([query.draw(n, rng, grid)[0] for n in range(draws)], minlength=len(grid) - 1) / draws


def assert_within_sigmas(frequency, probability, draws=DRAWS, sigmas=4.5):
    assert len(frequency) == len(probability)
    assert probability.sum() == pytest.approx(1)
    error = np.sqrt(probability * (1 - probability) / draws)
    assert (np.abs(frequency - probability) <= sigmas * error + 1e-9).all()


def beta_mass(a, b, edges):
    """The Beta(a, b) probability between neighbouring edges, by the midpoint rule."""
    u = (np.arange(400_000) + 0.5) / 400_000
    density = u ** (a - 1) * (1 - u) ** (b - 1)
    cdf = np.concatenate([[0.0], np.cumsum(density)]) / density.sum()
    return np.diff(np.interp(edges, np.linspace(0, 1, len(cdf)), cdf))


def test_the_integral_is_the_polynomial_cdf_of_beta_5_2():
    edges = np.linspace(0, 1, 17)
    np.testing.assert_allclose(beta_mass(5, 2, edges), np.diff(6 * edges**5 - 5 * edges**6), atol=1e-8)


@pytest.mark.parametrize(("a", "b"), [(5.0, 2.0), (5.0, 5.0), (2.0, 5.0)])
def test_beta_over_sixteen_indices(a, b):
    assert_within_sigmas(frequencies(BetaQuery(a, b), time_grid(16)), beta_mass(a, b, np.linspace(0, 1, 17)))


def test_the_default_is_the_papers_low_noise_query():
    assert_within_sigmas(frequencies(BetaQuery(), time_grid(16)), beta_mass(5, 2, np.linspace(0, 1, 17)))


def test_an_index_query_does_not_see_the_shift():
    assert (frequencies(BetaQuery(), time_grid(16, 3.0), 1000) == frequencies(BetaQuery(), time_grid(16), 1000)).all()


def test_a_sigma_query_fills_the_cells_around_the_shifted_times():
    times = np.array([3 * v / (1 + 2 * v) for v in 1 - np.arange(16) / 16])
    edges = np.concatenate([[0.0], 1 - (times[1:] + times[:-1]) / 2, [1.0]])
    assert_within_sigmas(frequencies(BetaQuery(coordinate="sigma"), time_grid(16, 3.0), FEWER), beta_mass(5, 2, edges), FEWER)


def test_a_logsnr_query_fills_the_cells_around_its_values():
    snr = np.array([2 * np.log(k / (16 - k)) for k in range(1, 16)])
    places = (snr - snr[0]) / (snr[-1] - snr[0])
    edges = np.concatenate([[0.0], (places[1:] + places[:-1]) / 2, [1.0]])
    expected = np.concatenate([[0.0], beta_mass(5, 2, edges)])
    assert_within_sigmas(frequencies(BetaQuery(coordinate="logsnr"), time_grid(16, 3.0), FEWER), expected, FEWER)


def test_uniform_over_sixteen_indices():
    assert_within_sigmas(frequencies(UniformQuery(), time_grid(16)), np.full(16, 1 / 16))


def test_uniform_in_sigma_has_half_a_cell_at_noise():
    frequency = frequencies(UniformQuery(coordinate="sigma"), time_grid(4), FEWER)
    assert_within_sigmas(frequency, np.array([1 / 8, 1 / 4, 1 / 4, 3 / 8]), FEWER)
