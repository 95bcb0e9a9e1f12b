from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from fields.method.plan import SamplePlan, Stream, generator
from fields.method.query import BetaQuery
from fields.method.routing import HardRouting
from fields.method.scoring import Scoring
from fields.method.time_grid import time_grid

EXPERTS = {"local": "editor", "global": "stylist", "text": "base"}
TWO = {"local": 0.5, "global": 0.25, "text": 0.25}


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("answer", "scores", "shares"),
    [
        ("mixed", TWO, {"editor": 0.5, "stylist": 0.25, "base": 0.25}),
        ("mixed", {"local": 1.0, "global": 0.0}, {"editor": 1.0}),
        ("mixed", None, {"stylist": 1.0}),
        ("composed", {"local": 0.5, "global": 0.5}, {"editor": 1.0, "stylist": 1.0, "plain": -1.0}),
        ("composed", {"local": 0.8, "global": 0.2}, {"editor": 1.0, "stylist": 0.25, "plain": -0.25}),
        ("composed", {"global": 1.0}, {"stylist": 1.0}),
        ("composed", None, {"stylist": 1.0}),
    ],
)
def test_factors_of_a_row(answer, scores, shares):
    """v_u + sum w_i (v_i - v_u) has the factor w_i at v_i and 1 - sum w_i at v_u."""
    scoring = Scoring(experts=EXPERTS, answer=answer, unconditional="plain" if answer == "composed" else None)
    assert scoring.shares("global", scores, rng()) == pytest.approx(shares)


@pytest.mark.parametrize("answer", ["drawn", "mixed", "composed"])
def test_factors_sum_to_1_whatever_the_scores(answer):
    scoring = Scoring(experts=EXPERTS, answer=answer, unconditional="base" if answer == "composed" else None)
    for seed in range(50):
        drawn = np.random.default_rng(seed).dirichlet((0.3, 0.3, 0.3))
        shares = scoring.shares("text", dict(zip(EXPERTS, drawn, strict=True)), np.random.default_rng(seed))
        assert sum(shares.values()) == pytest.approx(1)


def test_routes_of_one_expert_add_up():
    scoring = Scoring(experts={"a": "one", "b": "one", "c": "two"}, answer="mixed")
    assert scoring.shares("a", {"a": 0.25, "b": 0.25, "c": 0.5}, rng()) == {"one": 0.5, "two": 0.5}


@pytest.mark.parametrize(("answer", "unconditional"), [("composed", None), ("drawn", "base"), ("mixed", "base")])
def test_v_u_is_for_a_composed_answer_alone(answer, unconditional):
    with pytest.raises(ValueError, match="unconditional"):
        Scoring(experts=EXPERTS, answer=answer, unconditional=unconditional)


def plan(shares=None):
    settings = {} if shares is None else {"shares": shares}
    return SamplePlan(
        seed=3,
        batch_size=24,
        group_size=8,
        routing=HardRouting({"local": 1.0, "global": 1.0}),
        query=BetaQuery(),
        grid=lambda size: time_grid(16, 3.0),
        rows={"local": 40, "global": 40},
        **settings,
    )


def drawn(route, row, numbers):
    return Scoring(experts=EXPERTS, answer="drawn").shares(route, TWO if row % 2 else None, numbers)


def test_experts_are_drawn_by_the_scores_of_their_rows():
    samples = [plan(drawn).sample(n) for n in range(2000)]
    scored = Counter(sample.experts for sample in samples if sample.row % 2)
    total = sum(scored.values())
    for route, probability in TWO.items():
        spread = (probability * (1 - probability) / total) ** 0.5
        assert abs(scored[(EXPERTS[route],)] / total - probability) < 4 * spread
    assert all(sample.experts == (EXPERTS[sample.route],) for sample in samples if sample.row % 2 == 0)


def test_scores_leave_routes_rows_and_queries_as_they_are():
    for n in range(200):
        assert replace(plan(drawn).sample(n), shares=()) == plan().sample(n)


def test_the_draw_is_of_the_sample_whoever_asks_and_in_whatever_order():
    ahead = [plan(drawn).sample(n) for n in range(50)]
    assert ahead == [plan(drawn).sample(n) for n in reversed(range(50))][::-1]
    for sample in (sample for sample in ahead if sample.row % 2):
        share = generator(3, Stream.SCORE, sample.id).random()
        assert sample.experts == ("editor" if share < 0.5 else "stylist" if share < 0.75 else "base",)


def test_a_group_asks_the_same_experts_for_all_its_samples():
    groups = plan(drawn).groups(5)
    assert sorted(n for group in groups for n in group.ids) == list(range(120, 144))
    assert all(len({sample.experts for sample in group.samples}) == 1 for group in groups)
    assert len({(group.route, group.samples[0].experts) for group in groups}) > 2
