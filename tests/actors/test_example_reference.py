"""Examples that are passed on by reference: nobody copies them on the way, and who fetches them gets what was computed."""

import ray
import torch

from actors.example_reference import AnswerReference, ExampleReference, GroupReference, fetched
from fields.carriers import Condition, Outline, Query, Sealed, SealedQueries, Target
from fields.method.teaching import Lesson

ROUTE = "local_edit"


def query(*sample_ids: int, t: float) -> Query:
    rows = len(sample_ids)
    return Query(
        sample_ids=sample_ids,
        routes=(ROUTE,) * rows,
        policy_version=3,
        checksum="c",
        x_t=torch.tensor(sample_ids, dtype=torch.float32)[:, None] + t,
        t=torch.full((rows,), t),
        t_next=torch.full((rows,), t / 2),
        condition=Condition(tensors={"text": torch.ones(rows, 0, dtype=torch.bfloat16)}, unconditional={}),
    )


def target(asked: Query, expert: str, factor: float) -> Target:
    return Target(sample_ids=asked.sample_ids, expert=expert, t=asked.t, velocity=factor * asked.x_t)


@ray.remote
class Between:
    """Whoever passes a value on."""

    def owns(self, queries: SealedQueries) -> list[bool]:
        return [buffer.flags.owndata or buffer.flags.writeable for buffer in queries.sealed.buffers if buffer.size]

    def fetch(self, references: list[ExampleReference]) -> list[tuple[tuple[int, ...], torch.Tensor, torch.Tensor]]:
        return [(example.query.sample_ids, example.query.x_t, example.target.velocity) for example in fetched(references)]


def test_a_sealed_value_is_mapped_and_opened_into_tensors_of_its_own(cluster):
    asked = query(*range(50_000), t=0.5)  # so large that it lies in the object store
    reference = ray.put(SealedQueries.of((asked,)))
    between = Between.options(num_cpus=0.1).remote()
    assert ray.get(between.owns.remote(reference)) == [False] * 3, "the states and the two times, in shared memory"
    received = ray.get(reference)
    assert received.outlines == (Outline(sample_ids=asked.sample_ids, policy_version=3, checksum="c", values=50_000),)
    (opened,) = received.sealed.open()
    opened.x_t.add_(1)
    assert torch.equal(received.sealed.open()[0].x_t, asked.x_t), "the object in the store stays as it is"
    assert opened.condition.tensors["text"].shape == (50_000, 0)


def test_a_rank_fetches_its_own_queries_of_a_group_with_the_mixed_targets(cluster):
    """Two groups of two queries, answered by two experts in one call: of the four examples a rank has the last three."""
    groups = [(query(0, 1, t=0.5), query(0, 1, t=0.25)), (query(2, t=0.5), query(2, t=0.25))]
    answers = [
        ray.put([Sealed.of(tuple(target(one, name, factor) for one in group)) for group in groups])
        for name, factor in (("a", 1.0), ("b", 3.0))
    ]
    references = [
        ExampleReference(groups=(reference,), place=place, outline=Outline.of(one))
        for number, group in enumerate(groups)
        for reference in [
            GroupReference(
                queries=ray.put(SealedQueries.of(group)),
                answers={name: AnswerReference(answer, number) for name, answer in zip("ab", answers, strict=True)},
                lesson=Lesson(shares={"a": (0.25,) * len(group[0].sample_ids), "b": (0.75,) * len(group[0].sample_ids)}),
            )
        ]
        for place, one in enumerate(group)
    ]
    rank = Between.options(num_cpus=0.1).remote()
    expected = [one for group in groups for one in group][1:]
    for one, (sample_ids, x_t, velocity) in zip(expected, ray.get(rank.fetch.remote(references[1:])), strict=True):
        assert sample_ids == one.sample_ids
        assert torch.equal(x_t, one.x_t)
        torch.testing.assert_close(velocity, 2.5 * one.x_t)
