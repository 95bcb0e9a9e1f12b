import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fields
from fields.data.size import Size
from fields.method.plan import SamplePlan, Stream, generator, noise
from fields.method.query import BetaQuery, DenseQuery, FixedQuery, StratifiedQuery, UniformQuery
from fields.method.routing import ChangingRouting, GroupedRouting, HardRouting
from fields.method.time_grid import time_grid

ROWS = {"a": 7, "b": 100, "c": 3}
SEEDS = st.integers(0, 2**64 - 1)
FEW = settings(max_examples=30)


def make_plan(**changes):
    settings = {
        "seed": 0,
        "batch_size": 12,
        "group_size": 4,
        "routing": HardRouting({"a": 1.0, "b": 2.0, "c": 1.0}),
        "query": BetaQuery(),
        "grid": lambda size: time_grid(16, 3.0),
        "rows": ROWS,
    }
    return SamplePlan(**settings | changes)


QUERIES = (
    BetaQuery(),
    BetaQuery(5.0, 1.0, "sigma", k=4),
    UniformQuery("logsnr", k=2),
    StratifiedQuery(k=3),
    StratifiedQuery("sigma", k=16),
    FixedQuery((0.9, 0.2)),
    DenseQuery(),
)


@st.composite
def plans(draw):
    weights = draw(st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any))
    group_size = draw(st.integers(1, 6))
    granularity = draw(st.sampled_from(["sample", "microbatch", "step", "grouped"]))
    named = dict(zip(ROWS, map(float, weights), strict=True))
    return make_plan(
        seed=draw(SEEDS),
        group_size=group_size,
        batch_size=group_size * draw(st.integers(1, 4)),
        routing=GroupedRouting(named) if granularity == "grouped" else HardRouting(named, granularity),
        query=draw(st.sampled_from(QUERIES)),
    )


@FEW
@given(plans(), st.permutations(range(20)))
def test_a_sample_is_the_same_whoever_asks_and_in_whatever_order(plan, order):
    in_order = [plan.sample(n) for n in range(20)]
    assert {n: plan.sample(n) for n in order} == dict(enumerate(in_order))
    assert [make_plan(**{name: getattr(plan, name) for name in plan.__slots__}).sample(n) for n in range(20)] == in_order


def test_another_process_with_other_hashes_has_the_same_plan_and_noise():
    code = """
import json, sys
from fields.method.plan import SamplePlan, noise
from fields.method.query import *
from fields.method.routing import ChangingRouting, GroupedRouting, HardRouting
from fields.method.time_grid import time_grid
plans = [
    SamplePlan(seed=2**64 - 1, batch_size=12, group_size=4, routing=routing({"a": 1.0, "b": 2.0, "c": 1.0}), query=eval(query),
               grid=lambda size: time_grid(16, 3.0), rows={"a": 7, "b": 100, "c": 3})
    for routing in (HardRouting, GroupedRouting) for query in sys.argv[1:]
]
samples = [plan.sample(n) for plan in plans for n in (100, 5, 0, 2**40)]
print(json.dumps([[[s.id, s.route, s.row, s.indices] for s in samples], noise(2**64 - 1, (5, 2**40), (3,)).tolist()]))
"""
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(Path(fields.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(repr, QUERIES)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    samples, x_T = json.loads(output)
    weights = {"a": 1.0, "b": 2.0, "c": 1.0}
    plans = [make_plan(seed=2**64 - 1, routing=r(weights), query=q) for r in (HardRouting, GroupedRouting) for q in QUERIES]
    expected = [plan.sample(n) for plan in plans for n in (100, 5, 0, 2**40)]
    assert samples == [[s.id, s.route, s.row, list(s.indices)] for s in expected]
    assert x_T == noise(2**64 - 1, (5, 2**40), (3,)).tolist()


@FEW
@given(plans(), st.integers(0, 1000))
def test_groups_partition_the_ids_of_their_steps(plan, step):
    ids = [n for s in (step, step + 1) for group in plan.groups(s) for n in group.ids]
    assert sorted(ids) == list(range(step * plan.batch_size, (step + 2) * plan.batch_size))


@FEW
@given(plans(), st.integers(0, 1000))
def test_a_group_has_one_route_ascending_ids_and_at_most_group_size_samples(plan, step):
    groups = plan.groups(step)
    for group in groups:
        assert group.step == step
        assert {sample.route for sample in group.samples} == {group.route}
        assert list(group.ids) == sorted(group.ids)
        assert group.indices.tolist() == [list(plan.sample(n).indices) for n in group.ids]
    sizes = {route: [len(g.samples) for g in groups if g.route == route] for route in ROWS}
    for of_route in sizes.values():
        assert all(size == plan.group_size for size in of_route[:-1]), "only a route's last group may be short"
        assert all(1 <= size <= plan.group_size for size in of_route)


SIZES = (Size(64, 96), Size(96, 64), None)


def size_of(route, row):
    return SIZES[row % 3] if route == "b" else None


@FEW
@given(plans(), st.integers(0, 1000))
def test_groups_do_not_mix_sizes_and_lose_nobody(plan, step):
    sized = replace(plan, size=size_of)
    groups = sized.groups(step)
    for group in groups:
        assert {size_of(group.route, sample.row) for sample in group.samples} == {group.size}
        assert 1 <= len(group.samples) <= plan.group_size
    ids = sorted(n for group in groups for n in group.ids)
    assert ids == list(range(step * plan.batch_size, (step + 1) * plan.batch_size))
    for route, size in {(group.route, group.size) for group in groups}:
        lengths = [len(group.samples) for group in groups if (group.route, group.size) == (route, size)]
        assert all(length == plan.group_size for length in lengths[:-1]), "only the last group of a route and size may be short"


@FEW
@given(plans(), st.integers(0, 1000))
def test_batches_of_several_routes_have_one_shape_are_full_and_lose_nobody(plan, step):
    """Routes a and c have no source image, b has one; b has images of several sizes."""
    sources = {"a": 0, "b": 1, "c": 0}
    mixing = replace(plan, size=size_of, sources=sources.__getitem__)
    batches = mixing.batches(step)
    assert [group for batch in batches for group in batch] == list(mixing.groups(step))
    lengths = {}
    for batch in batches:
        (shape,) = {(sources[group.route], group.size) for group in batch}
        lengths.setdefault(shape, []).append(sum(len(group.samples) for group in batch))
        assert [group.route for group in batch] == sorted({group.route for group in batch}), "a route is one group of a batch"
    for of_shape in lengths.values():
        assert len(of_shape) == math.ceil(sum(of_shape) / plan.group_size), "no more than are needed"
        assert max(of_shape) <= min(of_shape) + 1
    ids = [n for batch in batches for group in batch for n in group.ids]
    assert sorted(ids) == list(range(step * plan.batch_size, (step + 1) * plan.batch_size))
    assert [mixing.sample(n) for n in ids] == [replace(plan, size=size_of).sample(n) for n in ids], "mixing draws nothing"


def test_samples_that_other_experts_answer_are_groups_of_one_batch():
    plan = make_plan(
        routing=HardRouting({"a": 1.0, "b": 0.0, "c": 0.0}),
        shares=lambda route, row, rng: {f"expert-{row % 2}": 1.0},
        sources=lambda route: 0,
    )
    batches = plan.batches(0)
    assert [sum(len(group.ids) for group in batch) for batch in batches] == [4, 4, 4]
    for batch in batches:
        assert len({group.samples[0].experts for group in batch}) == len(batch)
        assert all(sample.experts == group.samples[0].experts for group in batch for sample in group.samples)
    assert max(len(batch) for batch in batches) == 2


def test_without_mixing_a_batch_is_a_group():
    plan = make_plan()
    assert plan.batches(3) == tuple((group,) for group in plan.groups(3))


def test_a_query_is_drawn_on_the_grid_of_the_samples_own_size():
    grids = dict(zip(SIZES, (time_grid(16, 3.0), time_grid(32, 1.0), time_grid(4)), strict=True))
    query = UniformQuery("sigma")
    plan = make_plan(size=size_of, grid=grids.__getitem__, query=query)
    for n in range(60):
        sample = plan.sample(n)
        assert sample.size == size_of(sample.route, sample.row)
        assert sample.indices == query.draw(n, generator(0, Stream.QUERY, n), grids[sample.size].tolist())


@FEW
@given(plans())
def test_rows_exist_and_a_route_of_weight_zero_is_never_drawn(plan):
    for n in range(60):
        sample = plan.sample(n)
        assert plan.routing.weights[sample.route] > 0
        assert 0 <= sample.row < ROWS[sample.route]
        assert list(sample.indices) == sorted(set(sample.indices)), "ascending and distinct"
        assert len(sample.indices) == len(plan.sample(0).indices)
        assert 0 <= sample.indices[0] <= sample.indices[-1] < 16


def test_routes_come_at_their_weights():
    plan = make_plan(routing=HardRouting({"a": 1.0, "b": 3.0, "c": 0.0}))
    count = sum(plan.sample(n).route == "a" for n in range(2000))
    assert abs(count - 500) < 4 * math.sqrt(2000 * 0.25 * 0.75)


def test_rows_are_uniform():
    counts = Counter(sample.row for n in range(2500) if (sample := make_plan().sample(n)).route == "a")
    expected = sum(counts.values()) / ROWS["a"]
    assert counts.keys() == set(range(ROWS["a"]))
    assert all(abs(count - expected) < 4.5 * math.sqrt(expected) for count in counts.values())


def test_granularity_says_what_shares_a_draw():
    def routes_of_units(granularity, unit):
        plan = make_plan(routing=HardRouting({"a": 1.0, "b": 1.0, "c": 1.0}, granularity))
        routes = [plan.sample(n).route for n in range(40 * 12)]
        return [set(routes[n : n + unit]) for n in range(0, len(routes), unit)]

    for granularity, unit in (("microbatch", 4), ("step", 12)):
        units = routes_of_units(granularity, unit)
        assert all(len(routes) == 1 for routes in units)
        assert set.union(*units) == set(ROWS), "units draw anew"
    assert any(len(routes) > 1 for routes in routes_of_units("sample", 4))
    assert any(len(routes) > 1 for routes in routes_of_units("microbatch", 12)), "a step has several microbatches"


@FEW
@given(SEEDS)
def test_another_query_distribution_leaves_routes_and_rows_as_they_were(seed):
    plan, other = make_plan(seed=seed), make_plan(seed=seed, query=UniformQuery("sigma"), grid=lambda size: time_grid(5))
    samples, others = ([p.sample(n) for n in range(40)] for p in (plan, other))
    assert [(s.id, s.route, s.row) for s in samples] == [(s.id, s.route, s.row) for s in others]
    assert [s.indices for s in samples] != [s.indices for s in others]


@FEW
@given(SEEDS)
def test_another_routing_leaves_query_points_as_they_were(seed):
    plan, other = make_plan(seed=seed), make_plan(seed=seed, routing=HardRouting({"c": 1.0, "a": 1.0}))
    assert [plan.sample(n).indices for n in range(40)] == [other.sample(n).indices for n in range(40)]
    assert [plan.sample(n).route for n in range(40)] != [other.sample(n).route for n in range(40)]


def test_each_decision_has_a_stream_of_its_own():
    plan = make_plan(seed=5, routing=HardRouting({"a": 1.0, "b": 2.0, "c": 1.0}, "microbatch"))
    for n in range(40):
        sample = plan.sample(n)
        assert sample.route == plan.routing.route(n, 12, generator(5, Stream.ROUTE, n // 4))
        assert sample.row == generator(5, Stream.ROW, n).integers(ROWS[sample.route])
        assert sample.indices == plan.query.draw(n, generator(5, Stream.QUERY, n), time_grid(16, 3.0).tolist())
    assert torch.equal(
        noise(5, (7,), (6,)), torch.from_numpy(generator(5, Stream.NOISE, 7).standard_normal((1, 6), np.float32))
    )


def test_every_seed_is_another_plan():
    plans_of_seeds = {tuple(make_plan(seed=seed).sample(n) for n in range(12)) for seed in (0, 1, 2**63, 2**63 + 1, 2**64 - 1)}
    assert len(plans_of_seeds) == 5


@FEW
@given(SEEDS, st.lists(st.integers(0, 2**60), min_size=1, max_size=6, unique=True))
def test_noise_of_an_id_does_not_depend_on_its_batch(seed, ids):
    together = noise(seed, ids, (3, 4, 4))
    assert together.shape == (len(ids), 3, 4, 4)
    assert together.dtype == torch.float32
    for row, n in zip(together, ids, strict=True):
        assert torch.equal(row, noise(seed, (n,), (3, 4, 4))[0])
    assert len({row.sum().item() for row in together}) == len(ids)


def test_noise_is_standard_normal_and_independent_between_ids():
    values = noise(5, range(2000), (64,)).double().numpy()
    n = values.size
    assert abs(values.mean()) < 4.5 / math.sqrt(n)
    assert abs(values.var() - 1) < 4.5 * math.sqrt(2 / n)
    assert abs((values**4).mean() - 3) < 4.5 * math.sqrt(96 / n)
    neighbours = (values[1:] * values[:-1]).mean()
    assert abs(neighbours) < 4.5 / math.sqrt(n - 64)


def test_streams_seeds_and_ids_share_no_numbers():
    keys = [(seed, stream, n) for seed in (0, 1, 2**64 - 1) for stream in Stream for n in (0, 1, 2, 2**40)]
    numbers = {generator(*key).bytes(16) for key in keys}
    assert len(numbers) == len(keys)


def test_a_long_draw_does_not_run_into_the_next_ids_numbers():
    first = generator(0, Stream.NOISE, 0).random(200_000)
    assert not np.isin(generator(0, Stream.NOISE, 1).random(100), first).any()


@FEW
@given(SEEDS, st.integers(0, 500))
def test_grouped_routing_has_every_route_in_every_step_at_its_weight(seed, step):
    plan = make_plan(seed=seed, routing=GroupedRouting({"a": 1.0, "b": 2.0, "c": 1.0}))
    counts = Counter(sample.route for group in plan.groups(step) for sample in group.samples)
    assert counts == {"a": 3, "b": 6, "c": 3}


def test_the_parts_of_a_sample_have_noise_of_their_own():
    """Each step of a stochastic rollout draws anew."""
    parts = [generator(0, Stream.TRANSITION, 5, part).bytes(16) for part in range(50)]
    assert len(set(parts)) == 50
    assert generator(0, Stream.TRANSITION, 5).bytes(16) == parts[0]


@FEW
@given(SEEDS, st.integers(1, 5), st.sampled_from(["sample", "microbatch", "step"]))
def test_a_change_of_weights_leaves_the_steps_before_it_as_they_were(seed, first, granularity):
    before = HardRouting({"a": 1.0, "b": 2.0, "c": 0.0}, granularity)
    after = HardRouting({"a": 1.0, "b": 0.0, "c": 1.0}, granularity)
    constant, changing = (make_plan(seed=seed, routing=r) for r in (before, ChangingRouting({0: before, first: after})))
    assert [changing.groups(step) for step in range(first)] == [constant.groups(step) for step in range(first)]
    later = [sample.route for step in range(first, first + 20) for group in changing.groups(step) for sample in group.samples]
    assert set(later) == {"a", "c"}
    assert [changing.sample(n).indices for n in range(80)] == [constant.sample(n).indices for n in range(80)]
