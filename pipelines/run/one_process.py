"""Everything that a run computes with, in one process and without Ray."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from actors.journal import Journal
from fields.carriers import Condition, Example, Query, Target, Weights
from fields.data.rows import Row
from fields.evaluation.base import ExamResult
from fields.evaluation.mismatch import mismatch
from fields.field import Field
from fields.memory.rehearsal import DoesNotFit
from fields.method.plan import Batch, Group
from fields.method.rollout import generate
from fields.policy import Policy
from pipelines.config.run import AFTER, BASE, BEFORE
from pipelines.parts.run_parts import RunParts
from pipelines.reports.run_report import report_so_far
from pipelines.run.too_large import LEARNER, ROLLOUT, too_large
from pipelines.run_folder.outcome import Outcome
from pipelines.watch.progress import Display


class OneProcess:
    """The encoder, the experts, the student that rolls out and the student that learns, all of them in this process."""

    def __init__(self, parts: RunParts):
        self._parts = parts
        self._families = {model: parts.encoder_family(model) for model in parts.families}  # encode where the services do
        self._family = self._families[None]
        self._fields = {name: parts.field(name) for name in parts.config.experts}
        self.policy = parts.policy()
        self.distiller = parts.distiller()
        self._rehearse()

    def _rehearse(self) -> None:
        """Whatever the run computes, once: the largest group of each network.

        Raises:
            ConfigError: which of them has no memory for it, and the key to lower.
        """
        experts = {f"the expert {name}": field for name, field in self._fields.items()}
        for who, computes in (experts | {ROLLOUT: self.policy, LEARNER: self.distiller}).items():
            try:
                computes.rehearse(self._parts.largest_pass)
            except DoesNotFit as error:
                raise too_large(who, error) from error

    def encode(self, group: Group) -> Condition:
        """The condition of a group's rows, on the CPU as the service gives it."""
        rows = [[self._parts.buckets[group.route][sample.row]] for sample in group.samples]
        asked = self._parts.teaching.lesson(group).asked
        models = sorted({model for expert in asked for model in self._parts.experts.reads[expert]})
        conditions = [self._encoded(row, models) for row in rows]
        if self._parts.config.state.reads_targets:
            conditions = [self._family.with_clean(c, row) for c, row in zip(conditions, rows, strict=True)]
        return Condition.concatenate([condition.to(torch.device("cpu")) for condition in conditions])

    def _encoded(self, rows: Sequence[Row], models: Collection[str]) -> Condition:
        """What the run's model, and these others, read of rows."""
        return self._family.encode(rows).with_others({model: self._families[model].encode(rows) for model in models})

    def states(self, batch: Batch, conditions: Sequence[Condition]) -> Sequence[tuple[Query, ...]]:
        """The states at which the experts of each group of a batch are asked."""
        if not self._parts.config.state.expert_rolls_out:
            return self.policy.queries(batch, conditions)
        return list(map(self._expert_states, batch, conditions))

    def _expert_states(self, group: Group, condition: Condition) -> tuple[Query, ...]:
        (expert,) = self._parts.teaching.lesson(group).shares
        return self._fields[expert].queries(group, condition, self._parts.rollouts(group.size))

    def learn(self, group: Group, query: Query) -> Example:
        """A query of a group with the answers of the experts that teach it."""
        lesson = self._parts.teaching.lesson(group)
        return lesson.example(query, {name: self.answer(name, query) for name in lesson.asked})

    def answer(self, expert: str, query: Query) -> Target:
        """What one expert says to a query."""
        return self._fields[expert].answer(query)

    def examine_before(self, start: Weights, display: Display) -> dict[str, ExamResult]:
        """The exams of the base, the student's start, and the experts."""
        display.say("evaluating base, experts and the student's start")
        results = {BASE: self.examine(None), BEFORE: self.examine(start)}
        for name, expert in self._parts.config.experts.items():
            base = expert.is_base(self._parts.config.model.quantization)
            results[name] = results[BASE] if base else self._examine_field(self._fields[name], self._parts.experts.reads[name])
        return results

    def examine_meanwhile(self, step: int, journal: Journal, results: dict[str, ExamResult]) -> None:
        """The exam of the student after `step` steps, in the journal, and in a report where others took theirs."""
        apart = self.mismatch(step)
        result = self.examine(self.distiller.averaged_weights(step))
        journal.record_skills(step, result.skills, result.picture, apart)
        if results:
            weights, answers = self.distiller.weights(step), {**results, AFTER: result}
            outcome = Outcome(steps=step, weights=weights, exam=self._parts.evaluation, results=answers)
            report_so_far(self._parts.config, outcome)

    def mismatch(self, step: int) -> float:
        """How far the student that rolls out is from the one that learns after `step` steps, at the first states of the step
        before: with the version that the policy still has since then."""
        batch = self._parts.plan.batches(step - 1)[0]
        query = Query.joined([own[0] for own in self.states(batch, list(map(self.encode, batch)))])

        def answer(weights: Weights | None) -> Tensor:
            self.policy.load(weights)
            return self.policy.answer(query)

        return mismatch(answer(self.distiller.weights(step)), self.distiller.velocity(query), answer(None))

    def examine(self, weights: Weights | None) -> ExamResult:
        """The student with these weights; None is the base."""
        self.policy.load(weights)
        return self._examine_field(self.policy)

    def _examine_field(self, field: Field | Policy, models: Collection[str] = ()) -> ExamResult:
        family, exam, answers = self._family, self._parts.evaluation, []
        for sheet in exam.sheets:
            condition = self._encoded(sheet.rows, models)
            grid = self._parts.exam_grid(family.size(sheet.rows[0]))
            x_0 = generate(field.velocity, sheet.noise, grid, condition, field.device)
            answers.append(exam.kept(family.decode(x_0)))
        return exam.result(answers)
