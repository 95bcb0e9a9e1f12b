import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fields.method.routing import ChangingRouting, GroupedRouting, HardRouting

DRAWS = 20_000


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_routes_come_at_their_weights_whatever_their_scale(weights, scale, seed):
    routing = HardRouting({f"r{i}": weight * scale for i, weight in enumerate(weights)})
    rng = np.random.default_rng(seed)
    counts = Counter(routing.route(n, 1, rng) for n in range(300))
    for i, weight in enumerate(weights):
        p = weight / sum(weights)
        assert abs(counts[f"r{i}"] - 300 * p) <= 6 * math.sqrt(300 * p * (1 - p)), "0 or 1 must hold exactly"


def test_weights_1_2_5_to_four_sigma():
    rng = np.random.default_rng(0)
    routing = HardRouting({"a": 1.0, "none": 0.0, "b": 2.0, "c": 5.0, "last": 0.0})
    counts = Counter(routing.route(n, 1, rng) for n in range(DRAWS))
    assert counts.keys() == {"a", "b", "c"}
    for route, p in {"a": 1 / 8, "b": 2 / 8, "c": 5 / 8}.items():
        assert abs(counts[route] - DRAWS * p) < 4 * math.sqrt(DRAWS * p * (1 - p))


def test_one_number_a_draw_in_the_order_of_the_configuration():
    """So a plan can be replayed: the route is where the generator's next number lies on the stacked weights."""
    routing = HardRouting({"b": 2.0, "a": 1.0, "c": 1.0})
    rng, twin = np.random.default_rng(3), np.random.default_rng(3)
    for n in range(200):
        u = twin.random()
        assert routing.route(n, 4, rng) == ("b" if u < 0.5 else "a" if u < 0.75 else "c")


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_a_weight_that_is_no_weight_is_refused_by_name(weight):
    with pytest.raises(ValueError, match=r"'bad'.*finite and not negative"):
        HardRouting({"good": 1.0, "bad": weight})


@pytest.mark.parametrize("weights", [{}, {"a": 0.0, "b": 0.0}])
def test_at_least_one_weight_is_positive(weights):
    with pytest.raises(ValueError, match="at least one must be positive"):
        HardRouting(weights)


@pytest.mark.parametrize(("weights", "total"), [({"a": 1e308, "b": 1e308}, "inf"), ({"a": 5e-324, "b": 0.0}, "4.94066e-324")])
def test_weights_whose_sum_is_no_number_to_take_shares_of(weights, total):
    with pytest.raises(ValueError, match=f"sum to {total}; allowed: 1e-300 to 1e300"):
        HardRouting(weights)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), st.integers(1, 60), st.integers(0, 50))
def test_grouped_routing_has_every_route_in_every_step_in_proportion(weights, batch_size, step):
    routing = GroupedRouting({f"r{i}": float(weight) for i, weight in enumerate(weights)})
    rng = np.random.default_rng(0)
    routes = [routing.route(n, batch_size, rng) for n in range(step * batch_size, (step + 1) * batch_size)]
    for i, weight in enumerate(weights):
        share = batch_size * weight / sum(weights)
        assert abs(routes.count(f"r{i}") - share) < 1 + 1e-9, "a share is rounded up or down"
        assert weight > 0 or routes.count(f"r{i}") == 0
    assert rng.random() == np.random.default_rng(0).random(), "nothing is drawn"


def test_grouped_routing_of_weights_that_divide_the_batch_is_exact():
    routing = GroupedRouting({"a": 1.0, "none": 0.0, "b": 2.0, "c": 3.0})
    for step in range(3):
        routes = Counter(routing.route(n, 12, np.random.default_rng(0)) for n in range(12 * step, 12 * (step + 1)))
        assert routes == {"a": 2, "b": 4, "c": 6}


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}])
def test_grouped_routing_refuses_the_same_weights(weights):
    with pytest.raises(ValueError, match="weight"):
        GroupedRouting(weights)


def test_a_step_of_one_sample_takes_the_heavier_route():
    assert GroupedRouting({"a": 1.0, "b": 3.0}).route(0, 1, np.random.default_rng(0)) == "b"


def test_changing_routing_is_each_stages_own_from_its_first_step_on():
    stages = {
        0: HardRouting({"a": 1.0, "b": 0.0}),
        3: GroupedRouting({"a": 1.0, "b": 3.0}),
        5: HardRouting({"a": 0.0, "b": 1.0}),
    }
    routing = ChangingRouting(stages)
    rng = np.random.default_rng(0)
    routes = [[routing.route(n, 4, rng) for n in range(4 * step, 4 * step + 4)] for step in range(7)]
    assert routes == [["a"] * 4] * 3 + [["a", "b", "b", "b"]] * 2 + [["b"] * 4] * 2
    assert ChangingRouting({0: stages[0], 3: HardRouting({"a": 1.0, "b": 1.0}, "step")}).unit(13, 2, 4) == 3
    assert list(routing.weights) == ["a", "b"]


@pytest.mark.parametrize("steps", [(), (1,), (0, 5, 3)])
def test_stages_ascend_from_the_start(steps):
    with pytest.raises(ValueError, match="must ascend from 0"):
        ChangingRouting({step: HardRouting({"a": 1.0}) for step in steps})


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0, "c": 2.0}, {"a": 1.0, "none": 0.0, "b": 9.0}])
def test_the_routes_without_room_in_a_grouped_step_are_those_that_no_sample_of_it_takes(weights):
    routing, rng = GroupedRouting(weights), np.random.default_rng(0)
    for batch_size in range(1, 24):
        taken = {routing.route(n, batch_size, rng) for n in range(5 * batch_size, 6 * batch_size)}
        assert routing.absent(batch_size) == [route for route in weights if weights[route] and route not in taken]
    assert routing.absent(1)
    assert not routing.absent(23)
