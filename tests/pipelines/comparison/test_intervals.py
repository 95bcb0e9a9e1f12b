import math
import statistics

import numpy as np
import pytest

from pipelines.comparison.intervals import difference, estimate, student_t, verdict


def test_the_interval_of_five_seeds_is_students_t():
    values = [0.8, 0.9, 0.85, 0.95, 0.7]
    found = estimate(values)
    assert found.mean == pytest.approx(0.84)
    assert found.half_width == pytest.approx(2.7764451 * statistics.stdev(values) / math.sqrt(5))
    assert str(found) == f"{found.mean:.3f} ± {found.half_width:.3f}"


@pytest.mark.parametrize(
    ("freedom", "quantile"),  # of the tables of the NIST/SEMATECH e-Handbook (1.3.6.7.2, at 0.975) and, at 1, tan(0.475 pi)
    [(2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (29, 2.045), (60, 2.000), (99, 1.984), (100, 1.984)],
)
def test_quantiles_are_those_of_the_published_table(freedom, quantile):
    assert student_t(freedom) == pytest.approx(quantile, abs=5.1e-4)


def test_quantiles_where_the_distribution_has_a_closed_form():
    assert student_t(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-12)
    assert student_t(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-12)
    assert student_t(100_000) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), rel=1e-4)


@pytest.mark.parametrize("count", [2, 5, 30])
def test_the_interval_holds_the_true_mean_19_times_of_20(count):
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        found = estimate(rng.normal(3.0, 2.0, count).tolist())
        inside += abs(found.mean - 3.0) <= found.half_width
    assert 0.93 < inside / 2000 < 0.97


def test_one_seed_has_no_interval():
    assert estimate([0.5]).half_width is None
    assert str(estimate([0.5])) == "0.500"


def test_a_difference_is_paired_by_seed():
    a, b = {0: 0.9, 1: 0.5, 2: 0.7}, {1: 0.4, 2: 0.6, 3: 0.0}
    found = difference(a, b)
    assert (found.mean, found.half_width, found.count) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-9), 2)
    assert difference({0: 1.0}, {1: 1.0}) is None


def test_a_verdict_needs_an_interval_that_leaves_out_0():
    low, high = {0: 0.10, 1: 0.12, 2: 0.11}, {0: 0.20, 1: 0.23, 2: 0.21}
    assert verdict(high, low) == "holds"
    assert verdict(low, high) == "reversed"
    assert verdict(low, {0: 0.0, 1: 0.25, 2: 0.1}) == "undecided"
    assert verdict({0: 1.0}, {0: 0.0}) == "undecided", "one seed decides nothing"
