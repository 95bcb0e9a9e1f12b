import pytest
import torch

from fields.carriers import Condition, Query, Target
from fields.method.plan import Group, Sample, noise
from fields.method.states import RolloutSettings, noised, queries
from fields.method.teaching import Teaching, from_data
from fields.method.time_grid import time_grid

IDS = (4, 9)
GROUP = Group(0, "edit", tuple(Sample(n, "edit", 0, (0,)) for n in IDS))


def normal(seed):
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed))


def query(clean=None):
    return Query(
        sample_ids=IDS,
        routes=("edit",) * len(IDS),
        policy_version=0,
        checksum="",
        x_t=normal(0),
        t=torch.tensor([1.0, 0.5]),
        t_next=torch.tensor([0.9, 0.4]),
        condition=Condition(tensors={"n": torch.arange(2)}, unconditional={}, clean=clean),
    )


def answer(name, seed, unconditional=None):
    velocity = normal(seed)
    return Target(sample_ids=IDS, expert=name, t=torch.tensor([1.0, 0.5]), velocity=velocity, unconditional=unconditional)


def test_one_expert_with_share_1_is_its_answer_bit_for_bit():
    given = answer("a", 1, unconditional=normal(2))
    example = Teaching(shares={"edit": {"a": 1.0}}).lesson(GROUP).example(query(), {"a": given})
    assert torch.equal(example.target.velocity, given.velocity)
    assert torch.equal(example.target.unconditional, given.unconditional)
    assert (example.target.expert, example.target.sample_ids) == ("a", IDS)


def test_shares_mix_both_branches_convexly():
    answers = {"a": answer("a", 1, normal(3)), "b": answer("b", 2, normal(4)), "c": answer("c", 5, normal(6))}
    shares = {"a": 0.5, "b": 0.25, "c": 0.25}
    target = Teaching(shares={"edit": shares}).lesson(GROUP).example(query(), answers).target
    torch.testing.assert_close(target.velocity, 0.5 * normal(1) + 0.25 * normal(2) + 0.25 * normal(5))
    torch.testing.assert_close(target.unconditional, 0.5 * normal(3) + 0.25 * normal(4) + 0.25 * normal(6))
    assert target.expert == "a + b + c"


@pytest.mark.parametrize(
    ("shares", "anchor", "asked"),
    [
        ({"a": 1.0}, None, ("a",)),
        ({"a": 0.5, "b": 0.5}, "c", ("a", "b", "c")),
        ({"a": 0.5, "b": 0.5}, "a", ("a", "b")),
        ({}, "c", ("c",)),
        ({}, None, ()),
    ],
)
def test_every_expert_is_asked_once(shares, anchor, asked):
    teaching = Teaching(shares={"edit": shares}, anchor=anchor)
    assert teaching.asked("edit") == teaching.lesson(GROUP).asked == asked


def test_the_anchor_travels_beside_the_target():
    answers = {"a": answer("a", 1), "c": answer("c", 2)}
    example = Teaching(shares={"edit": {"a": 1.0}}, anchor="c").lesson(GROUP).example(query(), answers)
    assert torch.equal(example.anchor.velocity, normal(2))
    assert torch.equal(example.target.velocity, normal(1))
    assert Teaching(shares={"edit": {"a": 1.0}}).lesson(GROUP).example(query(), answers).anchor is None


def test_a_target_from_data_is_eps_minus_x_0_of_the_plans_noise():
    grid, x_0 = time_grid(5, 2.0), normal(3)
    group = Group(0, "edit", tuple(Sample(n, "edit", 0, indices) for n, indices in zip(IDS, ((0, 3), (1, 4)), strict=True)))
    condition = Condition(tensors={"n": torch.arange(2)}, unconditional={}, clean=x_0)
    settings = RolloutSettings(seed=7, grid=grid, solver=None)
    for asked in queries(group, noised(x_0, group, settings), condition, settings, (0, "")):
        example = Teaching(shares={"edit": {}}).lesson(group).example(asked, {})
        torch.testing.assert_close(example.target.velocity, noise(7, IDS, (3, 4)) - x_0, rtol=1e-4, atol=1e-5)
        assert example.target.expert == "data"


def test_a_target_from_data_needs_the_data():
    with pytest.raises(AssertionError, match="target images"):
        from_data(query())


def test_rows_decide_who_teaches_a_sample_and_how_much():
    samples = (
        Sample(4, "edit", 0, (0,), None, (("a", 0.75), ("b", 0.25))),
        Sample(9, "edit", 1, (0,), None, (("a", 2.0), ("b", -1.0))),
    )
    lesson = Teaching(shares={"edit": {"c": 1.0}}).lesson(Group(0, "edit", samples))
    assert lesson.asked == ("a", "b")
    answers = {"a": answer("a", 1, normal(3)), "b": answer("b", 2, normal(4))}
    target = lesson.example(query(), answers).target
    torch.testing.assert_close(target.velocity[0], 0.75 * normal(1)[0] + 0.25 * normal(2)[0])
    torch.testing.assert_close(target.velocity[1], 2 * normal(1)[1] - normal(2)[1])
    torch.testing.assert_close(target.unconditional[1], 2 * normal(3)[1] - normal(4)[1])
