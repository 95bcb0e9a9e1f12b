"""Where an example's tensors are: the learner's loop deals examples to ranks by it, and never opens one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import ray

from fields.carriers import Example, Outline, Query, Sealed, SealedQueries, Target
from fields.method.teaching import Lesson


@dataclass(frozen=True, slots=True)
class AnswerReference:
    """One expert's targets for a group: a place in the answer to a call, which may be about several groups.

    Attributes:
        reference: of the answer.
        place: of the group in it.
    """

    reference: "ray.ObjectRef[Sequence[Sealed[tuple[Target, ...]]]]"
    place: int

    def fetch(self) -> tuple[Target, ...]:
        """The targets, one per query of the group."""
        return ray.get(self.reference)[self.place].open()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReference:
    """A group's queries and what the experts of its route said to them.

    Attributes:
        queries: of the group's `SealedQueries`.
        answers: by the expert's name.
        lesson: what is learned from them.
    """

    queries: "ray.ObjectRef[SealedQueries]"
    answers: Mapping[str, AnswerReference]
    lesson: Lesson

    def fetch_queries(self) -> tuple[Query, ...]:
        """The queries, from the object store of this node."""
        return ray.get(self.queries).sealed.open()

    def opened(self) -> Callable[[int], Example]:
        """The query of a place with its targets, which are put together when that is called."""
        queries = self.fetch_queries()
        targets = {name: answer.fetch() for name, answer in self.answers.items()}
        return lambda place: self.lesson.example(queries[place], {name: own[place] for name, own in targets.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleReference:
    """One query of a batch with its targets.

    Attributes:
        groups: of the batch: where they are.
        place: of the query among those of each group.
        outline: of the query.
    """

    groups: tuple[GroupReference, ...]
    place: int
    outline: Outline

    def fetch_query(self) -> Query:
        """The query, from the object store of this node."""
        return Query.joined([group.fetch_queries()[self.place] for group in self.groups])


def fetched(references: Sequence[ExampleReference]) -> Iterator[Example]:
    """The examples, in order, each batch of them opened once and when it is needed; until then the objects of all are on their
    way to this node.

    Raises:
        ObjectLostError: if the node that held one is gone.
        ValueError: if a value is not finite.
    """
    groups = [group for reference in references for group in reference.groups]
    objects = {answer.reference for group in groups for answer in group.answers.values()} | {g.queries for g in groups}
    if objects:
        ray.wait(list(objects), num_returns=len(objects), timeout=0)  # which begins to bring them
    for _, own in groupby(references, key=lambda reference: reference.groups[0].queries):
        first, *rest = own
        groups_opened = [group.opened() for group in first.groups]
        for reference in (first, *rest):
            yield Example.joined([example(reference.place) for example in groups_opened])
