"""Which groups are asked together, and that every query comes back with its own answer."""

import asyncio
import gc
from dataclasses import replace

import pytest
import torch
from stream_cases import PLAN, ROUTES, Encoder, Experts, Rollouts, publish

from actors.curriculum import Curriculum
from actors.example_reference import fetched
from actors.rank_group import RanksLost
from actors.stream import TargetStream
from fields.carriers import Weights
from fields.data.rows import Row
from fields.method.lag import Lag
from fields.method.routing import HardRouting
from fields.method.teaching import Teaching
from services.encoders import Encoders


@pytest.mark.parametrize("shared", ["", "bc", "abcd"])
def test_groups_of_a_shared_application_are_asked_together_up_to_a_groups_size(cluster, shared):
    one, own = Experts(shared=True), Experts()
    experts = {f"expert-{r}": one if r in shared else own for r in ROUTES}
    rows = [Row(str(n), "t", "p") for n in range(3)]

    async def first_step():
        stream = TargetStream(
            curriculum=Curriculum(
                encoders=Encoders({None: Encoder()}),
                plan=PLAN,
                buckets=dict.fromkeys(ROUTES, rows),
                experts=experts,
                teaching=Teaching(shares={route: {f"expert-{route}": 1.0} for route in ROUTES}),
            ),
            rollouts=Rollouts(),
            steps=range(1),
            lag=Lag(0),
        )
        publish(stream, 0)
        return list(fetched(await stream.examples(0)))

    examples = asyncio.run(first_step())
    groups = PLAN.groups(0)
    assert [example.query.sample_ids for example in examples] == [group.ids for group in groups], "the plan's order"
    for group, example in zip(groups, examples, strict=True):
        query, target = example.query, example.target
        assert target.sample_ids == query.sample_ids
        assert target.expert == f"expert-{group.route}"
        assert torch.equal(target.velocity, query.x_t**2)
    assert [len(call) for call in own.calls] == [1] * sum(group.route not in shared for group in groups)
    sizes = [sum(len(ids) for _, ids in call) for call in one.calls]
    assert sum(sizes) == sum(len(group.ids) for group in groups if group.route in shared)
    assert all(size <= PLAN.group_size for size in sizes)
    asked = [part for call in one.calls for part in call]
    assert asked == [(f"expert-{group.route}", group.ids) for group in groups if group.route in shared]
    if shared == "abcd":
        assert any(len({name for name, _ in call}) > 1 for call in one.calls), "no call was mixed"


def test_a_batch_of_several_routes_is_one_example_and_each_expert_is_asked_about_its_own(cluster):
    """Of routes whose conditions differ in what else they hold; the learner gets what the student reads."""
    own = Experts()
    plan = replace(PLAN, sources=lambda route: {"a": 0, "b": 0, "c": 1, "d": 1}[route])

    async def first_step():
        stream = TargetStream(
            curriculum=Curriculum(
                encoders=Encoders({None: Encoder()}),
                plan=plan,
                buckets={route: [Row(str(10 * number + n), "t", "p") for n in range(3)] for number, route in enumerate(ROUTES)},
                experts={f"expert-{route}": own for route in ROUTES},
                teaching=Teaching(shares={route: {f"expert-{route}": 1.0} for route in ROUTES}),
                reads_empty=frozenset("b"),
            ),
            rollouts=Rollouts(),
            steps=range(1),
            lag=Lag(0),
        )
        publish(stream, 0)
        references = await stream.examples(0)
        return list(fetched(references)), [reference.outline for reference in references]

    examples, outlines = asyncio.run(first_step())
    batches = plan.batches(0)
    assert max(map(len, batches)) == 2
    for batch, example, outline in zip(batches, examples, outlines, strict=True):
        samples = [sample for group in batch for sample in group.samples]
        ids = tuple(sample.id for sample in samples)
        assert example.query.sample_ids == example.target.sample_ids == outline.sample_ids == ids
        assert outline.values == len(ids)
        assert example.query.routes == tuple(sample.route for sample in samples)
        rows = [[10.0 * ROUTES.index(sample.route) + sample.row] for sample in samples]
        assert example.query.condition.tensors["row"].tolist() == rows
        assert example.query.x_t.tolist() == [[float(n)] for n in ids]
        assert torch.equal(example.target.velocity, example.query.x_t**2)
    asked = {(name, ids) for call in own.calls for name, ids in call}
    assert asked == {(f"expert-{group.route}", group.ids) for group in plan.groups(0)}


def test_a_route_that_learns_from_its_data_asks_nobody(cluster):
    own = Experts()

    class CleanEncoder(Encoder):
        async def encode(self, rows, with_clean, with_empty):
            assert with_clean
            condition = await super().encode(rows, with_clean, with_empty)
            return replace(condition, clean=condition.tensors["row"])

    async def first_step():
        stream = TargetStream(
            curriculum=Curriculum(
                encoders=Encoders({None: CleanEncoder()}),
                plan=PLAN,
                buckets={route: [Row(str(n), "t", "p") for n in range(3)] for route in ROUTES},
                experts={"expert": own},
                teaching=Teaching(shares={route: {} for route in ROUTES}),
                reads_targets=True,
                reads_empty=frozenset("b"),
            ),
            rollouts=Rollouts(),
            steps=range(1),
            lag=Lag(0),
        )
        publish(stream, 0)
        return list(fetched(await stream.examples(0)))

    examples = asyncio.run(first_step())
    assert [example.query.sample_ids for example in examples] == [group.ids for group in PLAN.groups(0)]
    for example in examples:
        clean = example.query.condition.tensors["row"]
        assert set(example.query.condition.unconditional) == ({"row"} if set(example.query.routes) == {"b"} else set())
        torch.testing.assert_close(example.target.velocity, (example.query.x_t - clean) / 0.5)
    assert own.calls == []


def test_a_change_begins_with_the_first_step_that_is_not_asked_for(cluster):
    """With a lag of 1 two steps are asked for at once: the change comes to the third."""
    rows = [Row(str(n), "t", "p") for n in range(3)]

    def taught(route):
        return Curriculum(
            encoders=Encoders({None: Encoder()}),
            plan=replace(PLAN, routing=HardRouting({r: float(r == route) for r in ROUTES})),
            buckets=dict.fromkeys(ROUTES, rows),
            experts={"expert": Experts()},
            teaching=Teaching(shares={r: {"expert": 1.0} for r in ROUTES}),
        )

    async def four_steps():
        stream = TargetStream(
            curriculum=taught("a"),
            rollouts=Rollouts(),
            steps=range(4),
            lag=Lag(1),
        )
        stream.require_open(0)
        publish(stream, 0)
        stream.require_open(2)
        with pytest.raises(ValueError, match="its samples are asked for already; the first that can is 2"):
            stream.require_open(1)
        stream.change(taught("b"))
        for version in (1, 2):
            publish(stream, version)
        with pytest.raises(ValueError, match="the run is at its end"):
            stream.require_open(4)
        return [{r for example in fetched(await stream.examples(step)) for r in example.query.routes} for step in range(4)]

    assert asyncio.run(four_steps()) == [{"a"}, {"a"}, {"b"}, {"b"}]


def test_a_version_that_could_not_be_published_fails_the_steps_that_roll_out_with_it(cluster, caplog):
    """And those that are given up say nothing of it afterwards."""
    curriculum = Curriculum(
        encoders=Encoders({None: Encoder()}),
        plan=PLAN,
        buckets={route: [Row(str(n), "t", "p") for n in range(3)] for route in ROUTES},
        experts={"expert": Experts()},
        teaching=Teaching(shares={route: {"expert": 1.0} for route in ROUTES}),
    )

    async def two_steps():
        stream = TargetStream(curriculum=curriculum, rollouts=Rollouts(), steps=range(3), lag=Lag(1))
        publish(stream, 0)
        await stream.examples(0)
        await stream.examples(1)
        publish(stream, 1, RanksLost("rank 1 has ended"))
        with pytest.raises(RanksLost, match="rank 1 has ended"):
            await stream.examples(2)
        again = stream.again(range(1, 3))
        publish(again, 0)
        publish(again, 1, RanksLost("rank 1 has ended"))
        await asyncio.wait(again._in_flight.values())
        again.cancel()

    asyncio.run(two_steps())
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_step_that_fails_leaves_the_version_to_the_other_that_rolls_out_with_it(cluster):
    """Or that one would be cancelled, and nobody told why."""

    class Refusing(Encoder):
        async def encode(self, rows, with_clean, with_empty):
            if rows[0].uid == "2":
                raise ValueError("no such row")
            return await super().encode(rows, with_clean, with_empty)

    plan = replace(PLAN, batch_size=2, group_size=1, routing=HardRouting({"a": 1.0}), rows={"a": 3})
    refused = [any(sample.row == 2 for group in plan.groups(step) for sample in group.samples) for step in range(2)]
    assert refused == [False, True], "the second step of this seed has the row that is refused"

    async def two_steps():
        stream = TargetStream(
            curriculum=Curriculum(
                encoders=Encoders({None: Refusing()}),
                plan=plan,
                buckets={"a": [Row(str(n), "t", "p") for n in range(3)]},
                experts={"expert": Experts()},
                teaching=Teaching(shares={"a": {"expert": 1.0}}),
            ),
            rollouts=Rollouts(),
            steps=range(2),
            lag=Lag(1),
        )
        published = asyncio.get_running_loop().create_future()
        stream.publish(0, published)
        with pytest.raises(ValueError, match="no such row"):
            await stream.examples(1)
        published.set_result(Weights.of(0, {"w": torch.zeros(1)}))
        return len(await stream.examples(0))

    assert asyncio.run(two_steps()) == len(plan.groups(0))
