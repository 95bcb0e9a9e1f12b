import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fields.method.query import BetaQuery, DenseQuery, FixedQuery, StratifiedQuery, UniformQuery
from fields.method.times import rollout_times

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
    assert_within_sigmas(frequencies(BetaQuery(a, b), rollout_times(16)), beta_mass(a, b, np.linspace(0, 1, 17)))


def test_the_default_is_the_papers_low_noise_query():
    assert_within_sigmas(frequencies(BetaQuery(), rollout_times(16)), beta_mass(5, 2, np.linspace(0, 1, 17)))


def test_an_index_query_does_not_see_the_shift():
    assert (frequencies(BetaQuery(), rollout_times(16, 3.0), 1000) == frequencies(BetaQuery(), rollout_times(16), 1000)).all()


def test_a_sigma_query_fills_the_cells_around_the_shifted_times():
    times = np.array([3 * v / (1 + 2 * v) for v in 1 - np.arange(16) / 16])
    edges = np.concatenate([[0.0], 1 - (times[1:] + times[:-1]) / 2, [1.0]])
    assert_within_sigmas(
        frequencies(BetaQuery(coordinate="sigma"), rollout_times(16, 3.0), FEWER), beta_mass(5, 2, edges), FEWER
    )


def test_a_logsnr_query_fills_the_cells_around_its_values():
    snr = np.array([2 * np.log(k / (16 - k)) for k in range(1, 16)])
    places = (snr - snr[0]) / (snr[-1] - snr[0])
    edges = np.concatenate([[0.0], (places[1:] + places[:-1]) / 2, [1.0]])
    expected = np.concatenate([[0.0], beta_mass(5, 2, edges)])
    assert_within_sigmas(frequencies(BetaQuery(coordinate="logsnr"), rollout_times(16, 3.0), FEWER), expected, FEWER)


def test_uniform_over_sixteen_indices():
    assert_within_sigmas(frequencies(UniformQuery(), rollout_times(16)), np.full(16, 1 / 16))


def test_uniform_in_sigma_has_half_a_cell_at_noise():
    frequency = frequencies(UniformQuery(coordinate="sigma"), rollout_times(4), FEWER)
    assert_within_sigmas(frequency, np.array([1 / 8, 1 / 4, 1 / 4, 3 / 8]), FEWER)


SEVERAL = st.tuples(
    st.sampled_from([BetaQuery, UniformQuery, StratifiedQuery]),
    st.sampled_from(["index", "sigma", "logsnr"]),
    st.integers(1, 12),
    st.sampled_from([1.0, 3.0, 0.3]),
)


@settings(max_examples=60)
@given(SEVERAL, st.data(), st.integers(0, 2**32), st.integers(0, 10**6))
def test_k_indices_are_distinct_ascending_and_on_the_grid(kind, data, seed, n):
    cls, coordinate, steps, shift = kind
    k = data.draw(st.integers(1, steps))
    indices = cls(coordinate=coordinate, k=k).draw(n, np.random.default_rng(seed), rollout_times(steps, shift))
    assert len(indices) == k
    assert list(indices) == sorted(set(indices))
    assert 0 <= indices[0] <= indices[-1] < steps


def test_all_indices_are_taken_even_where_beta_hardly_goes():
    assert BetaQuery(50.0, 1.0, k=16).draw(0, np.random.default_rng(0), rollout_times(16)) == tuple(range(16))


def test_two_beta_queries_are_two_draws_of_which_the_second_is_drawn_again_until_it_differs():
    """P(i < j) = p_i p_j / (1 - p_i) + p_j p_i / (1 - p_j): drawing without replacement."""
    p = beta_mass(5, 2, np.linspace(0, 1, 5))
    rng = np.random.default_rng(5)
    pairs = Counter(BetaQuery(k=2).draw(n, rng, rollout_times(4)) for n in range(DRAWS))
    for (i, j), count in pairs.items():
        expected = p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
        assert abs(count - DRAWS * expected) < 4.5 * math.sqrt(DRAWS * expected) + 1
    assert sum(pairs.values()) == DRAWS


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_any_n_consecutive_points_fall_into_n_different_strata(k):
    steps = 8
    rng = np.random.default_rng(3)
    indices = [StratifiedQuery(k=k).draw(n, rng, rollout_times(steps, 3.0)) for n in range(40)]
    for first in range(40 - steps // k):
        window = [index for sample in indices[first : first + steps // k] for index in sample]
        assert sorted(window) == list(range(steps))


def test_stratified_points_are_uniform_within_their_stratum():
    """On a grid of 4 in sigma the indices' cells cut the strata: half of each stratum lies in either cell."""
    query, rng = StratifiedQuery("sigma"), np.random.default_rng(2)
    counts = Counter((n % 4, query.draw(n, rng, rollout_times(4))[0]) for n in range(1600))
    assert counts.keys() == {(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3)}
    assert all(abs(counts[cell] - 200) < 4.5 * math.sqrt(100) for cell in counts if cell != (3, 3))


def test_fixed_points_are_the_same_for_every_sample():
    query = FixedQuery((0.9, 0.0, 0.5))
    assert {query.draw(n, np.random.default_rng(n), rollout_times(16)) for n in range(9)} == {(0, 8, 14)}
    times = rollout_times(16, 3.0)
    at_half = FixedQuery((0.5,), "sigma").draw(0, np.random.default_rng(0), times)
    assert abs(float(times[at_half[0]]) - 0.5) == min(abs(t - 0.5) for t in times)


@pytest.mark.parametrize("steps", [1, 5, 16])
def test_dense_is_every_state_but_the_clean_one(steps):
    assert DenseQuery().draw(7, np.random.default_rng(0), rollout_times(steps)) == tuple(range(steps))


@pytest.mark.parametrize(
    ("query", "count"),
    [(BetaQuery(), 1), (UniformQuery(k=3), 3), (StratifiedQuery(k=2), 2), (FixedQuery((0.1, 0.9)), 2), (DenseQuery(), 16)],
)
def test_a_sample_has_as_many_queries_as_it_says(query, count):
    assert len(query.draw(0, np.random.default_rng(0), rollout_times(16))) == count
