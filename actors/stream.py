"""The stream of targets: keeps a fixed window of future steps in flight and hands them over in plan order.

    plan.batches(step) -> encoder app -> rollout worker -> expert apps of each group -> examples -> learner
      rows of groups       conditions       query refs             targets

Experts that share an application are asked in calls of up to a group's size, put together in the plan's order.

The window is not tuned and not raced for: a step starts as soon as the version is published that it rolls out with (`Lag`), and
nothing else admits it. A slow learner publishes later, and the stream waits.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.curriculum import Curriculum
from actors.example_reference import AnswerReference, ExampleReference, GroupReference
from actors.rollout_pool import RolloutPool
from actors.rollout_worker import Publication, PublishedWeights
from actors.waits import Waits, numbered
from fields.carriers import Condition, Outline, SealedQueries
from fields.method.lag import Lag
from fields.method.plan import Batch, Group
from fields.method.teaching import Teaching
from services.encoder_client import ConditionReference
from services.expert_client import ExpertClient, QueriesReference


@dataclass(frozen=True, slots=True)
class ExpertQuestion:
    """One group's queries to one expert."""

    group: Group
    expert: str


@dataclass(frozen=True, slots=True)
class AskedGroup:
    """What is known here of a group's queries, and their reference: their bytes stay where they are."""

    outlines: tuple[Outline, ...]
    queries: QueriesReference
    others: Mapping[str, ConditionReference]  # what models beside the run's own read of the group's rows


class TargetStream:
    """Routed targets of future steps, used from the learner's event loop.

    Args:
        curriculum: the samples, and who encodes and answers them.
        rollouts: the rollout workers.
        steps: the steps to stream.
        lag: of the rollouts behind the learner.

    Attributes:
        waits: what the steps in flight wait for.
    """

    def __init__(
        self,
        *,
        curriculum: Curriculum,
        rollouts: RolloutPool,
        steps: range,
        lag: Lag,
    ):
        self._curriculum = curriculum
        self._rollouts = rollouts
        self._lag = lag
        self._waiting = iter(steps)
        self._next = next(self._waiting, None)
        self._in_flight: dict[int, asyncio.Task[list[ExampleReference]]] = {}
        self.waits = Waits()

    @property
    def depth(self) -> int:
        """Steps that are asked for or ready, and not yet handed over."""
        return len(self._in_flight)

    def require_open(self, step: int) -> None:
        """Returns if nothing is asked for at a step yet.

        Raises:
            ValueError: names the first step of which that is true.
        """
        if self._next is None:
            raise ValueError(f"step {step} cannot change: the run is at its end")
        if step < (first := self._next):
            raise ValueError(f"step {step} cannot change: its samples are asked for already; the first that can is {first}")

    def change(self, curriculum: Curriculum) -> None:
        """Another curriculum for the steps that nothing is asked for yet."""
        self._curriculum = curriculum

    def cancel(self) -> None:
        """Ask nobody any more."""
        for task in self._in_flight.values():
            task.cancel()

    def again(self, steps: range) -> "TargetStream":
        """A stream of other steps, with the curriculum as it is now."""
        return TargetStream(curriculum=self._curriculum, rollouts=self._rollouts, steps=steps, lag=self._lag)

    def publish(self, version: int, weights: Publication) -> None:
        """Admit the steps that roll out with this version, whose weights are on their way."""
        while self._next is not None and self._lag.version(self._next) == version:
            examples = self._examples(self._next, weights, self._curriculum)
            self._in_flight[self._next] = asyncio.create_task(examples)
            self._next = next(self._waiting, None)

    async def examples(self, step: int) -> list[ExampleReference]:
        """The step's examples, in plan order.

        Raises:
            Exception: what a worker or an expert raised, such as ValueError for a value that is not finite.
        """
        try:
            return await self._in_flight[step]
        finally:
            del self._in_flight[step]

    async def _examples(self, step: int, weights: Publication, curriculum: Curriculum) -> list[ExampleReference]:
        batches = curriculum.plan.batches(step)
        asked = {batch: asyncio.ensure_future(self._asked(batch, weights, curriculum)) for batch in batches}
        of_group = {group: asked[batch] for batch in batches for group in batch}
        calls = _calls([group for batch in batches for group in batch], curriculum)
        try:
            answers = await asyncio.gather(*(self._answers(call, of_group, curriculum) for call in calls))
            queries = {batch: await task for batch, task in asked.items()}  # of routes without an expert, too
        finally:
            for task in asked.values():
                task.cancel()  # where the step is given up: nobody waits for the rest
        targets = {question: own for answered in answers for question, own in answered.items()}
        return [example for batch in batches for example in _learned(batch, queries[batch], targets, curriculum.teaching)]

    async def _asked(self, batch: Batch, weights: Publication, curriculum: Curriculum) -> dict[Group, AskedGroup]:
        encoded = await asyncio.gather(*(self._encoded(group, curriculum) for group in batch))
        conditions, others = zip(*encoded, strict=True)
        if curriculum.expert_rollouts is None:
            asks = _named(batch)
            with self.waits.on(f"{asks}: the student's weights"):
                published = await asyncio.shield(weights)  # others wait for the same publication when this one is given up
            with self.waits.on(f"{asks}: a rollout by version {published.policy_version}"):
                rolled_out = await self._student_rollout(batch, [own.with_others({}) for own in conditions], published)
        else:
            own_rollouts = (self._expert_rollout(group, own, curriculum) for group, own in zip(batch, conditions, strict=True))
            rolled_out = await asyncio.gather(*own_rollouts)
        found = zip(batch, rolled_out, others, strict=True)
        return {group: AskedGroup(queries.outlines, reference, own) for group, (queries, reference), own in found}

    async def _encoded(self, group: Group, curriculum: Curriculum) -> tuple[Condition, Mapping[str, ConditionReference]]:
        """The condition of a group's rows, and what models beside the run's own read of them."""
        rows = [curriculum.buckets[group.route][sample.row] for sample in group.samples]
        with self.waits.on(f"{_named((group,))}: the encoder"):
            reads_empty, models = group.route in curriculum.reads_empty, curriculum.models(group)
            return await curriculum.encoders.encoded(rows, curriculum.reads_targets, reads_empty, models)

    async def _expert_rollout(
        self, group: Group, condition: Condition, curriculum: Curriculum
    ) -> tuple[SealedQueries, QueriesReference]:
        """The states of the rollout of a group's own expert."""
        assert curriculum.expert_rollouts is not None
        (expert,) = curriculum.teaching.lesson(group).shares
        with self.waits.on(f"{_named((group,))}: a rollout by {expert}"):
            return await curriculum.experts[expert].queries(expert, group, condition, curriculum.expert_rollouts(group.size))

    async def _answers(
        self,
        call: Sequence[ExpertQuestion],
        asked: Mapping[Group, Awaitable[Mapping[Group, AskedGroup]]],
        curriculum: Curriculum,
    ) -> dict[ExpertQuestion, AnswerReference]:
        """The targets of one call's questions, which are all to one application."""
        groups = [(await asked[question.group])[question.group] for question in call]
        client = curriculum.experts[call[0].expert]
        names = [question.expert for question in call]
        others = [
            {model: group.others[model] for model in curriculum.reads.get(name, ())}
            for name, group in zip(names, groups, strict=True)
        ]
        ids = [sample_id for question in call for sample_id in question.group.ids]
        with self.waits.on(f"step {call[0].group.step}, {numbered(ids)}: the velocity of {', '.join(dict.fromkeys(names))}"):
            answer = await client.answer(names, [group.queries for group in groups], others)
        return {question: AnswerReference(answer, place) for place, question in enumerate(call)}

    async def _student_rollout(
        self, batch: Batch, conditions: Sequence[Condition], weights: PublishedWeights
    ) -> list[tuple[SealedQueries, QueriesReference]]:
        """The workers' queries of each group.

        Raises:
            RuntimeError: if a worker used other weights than it was asked to.
        """
        of_groups = await self._rollouts.queries(batch, conditions, weights)
        for group, (queries, _) in zip(batch, of_groups, strict=True):
            for query in queries.outlines:
                answered = (query.sample_ids, query.policy_version, query.checksum)
                if answered != (asked := (group.ids, weights.policy_version, weights.checksum)):
                    raise RuntimeError(f"a rollout answered {answered}; asked was {asked}")
        return of_groups


def _named(batch: Batch) -> str:
    """What is asked for, as a message names it."""
    ids = sorted(sample_id for group in batch for sample_id in group.ids)
    return f"step {batch[0].step}, {', '.join(dict.fromkeys(group.route for group in batch))}, {numbered(ids)}"


def _calls(groups: Sequence[Group], curriculum: Curriculum) -> list[list[ExpertQuestion]]:
    """What is asked together: decided by the plan, so that a call's composition is part of what can be repeated."""
    calls: list[list[ExpertQuestion]] = []
    last: dict[ExpertClient, list[ExpertQuestion]] = {}  # of an application of several experts, the call that may have room
    for question in [ExpertQuestion(group, name) for group in groups for name in curriculum.teaching.lesson(group).asked]:
        client = curriculum.experts[question.expert]
        call = last.get(client)
        size = sum(len(asked.group.samples) for asked in [*(call or ()), question])
        if call is None or size > curriculum.plan.group_size:
            call = []
            calls.append(call)
            if client.shared:
                last[client] = call
        call.append(question)
    return calls


def _learned(
    batch: Batch, asked: Mapping[Group, AskedGroup], targets: Mapping[ExpertQuestion, AnswerReference], teaching: Teaching
) -> Iterator[ExampleReference]:
    """The queries of a batch, each with what the experts of its groups said to it."""

    def reference(group: Group) -> GroupReference:
        lesson = teaching.lesson(group)
        answers = {name: targets[ExpertQuestion(group, name)] for name in lesson.asked}
        return GroupReference(queries=asked[group].queries, answers=answers, lesson=lesson)

    groups = tuple(map(reference, batch))
    for place, outlines in enumerate(zip(*(asked[group].outlines for group in batch), strict=True)):
        yield ExampleReference(groups=groups, place=place, outline=Outline.joined(outlines))
