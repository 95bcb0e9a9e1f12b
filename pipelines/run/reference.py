"""A run by the plain loop of `fields/`, in this process and without Ray: for debugging, and as the oracle."""

import time
from pathlib import Path

import torch

from actors.journal import Journal
from fields import checkpoint
from fields.carriers import Condition, Example, Query, Weights
from fields.evaluation.base import ExamResult
from fields.field import Field
from fields.method.lag import Lag
from fields.method.plan import Group
from fields.method.rollout import generate
from fields.policy import Policy
from fields.reference import distill
from pipelines.config.method import ExpertRollout
from pipelines.config.recipe import recipe as run_recipe
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig
from pipelines.parts import build
from pipelines.reports.run_report import report_so_far
from pipelines.run_folder.outcome import Outcome
from pipelines.watch.progress import Display


def run_reference(config: RunConfig, rows: dict[str, int], resume: Path | None, display: Display) -> Outcome:
    """Train and evaluate; writes the journal and the checkpoints."""
    torch.set_num_threads(config.run.threads)
    run = _Run(config, rows)
    distiller = run.distiller
    published = {0: distiller.weights(0)}
    results: dict[str, ExamResult] = {}
    if config.eval.every:
        display.say("evaluating base, experts and the student's start")
        results = {BASE: run.examine(None), BEFORE: run.examine(published[0])}
        results |= {name: run.examine_field(field) for name, field in run.fields.items()}
    saved = checkpoint.read(resume) if resume else None
    if saved is not None:
        distiller.restore(saved.student, saved.ema, saved.optimizer, saved.step)
        published = dict(saved.published)
    when = build.schedule(config, saved.step if saved else 0)
    journal = Journal(config.folder, when.start, config.run.loggers)
    recipe, checkpoints = run_recipe(config), config.folder / "checkpoints"
    began, samples = time.monotonic(), 0
    steps, lag = range(when.start, when.steps), Lag(when.lag)
    for step, update in distill(run.plan, run.encode, run.policy, run.states, run.learn, distiller, published, steps, lag):
        ids = [sample_id for group in run.plan.groups(step) for sample_id in group.ids]
        samples += len(ids)
        seconds = time.monotonic() - began
        journal.record(step, update, lag.version(step), ids, seconds)
        display.update(step + 1, update, samples, seconds, step - lag.version(step))
        if when.saves_after(step + 1):
            checkpoint.save(checkpoints, step + 1, distiller, published, recipe)
            checkpoint.prune(checkpoints, when.keep_checkpoints)
        if when.evaluates_after(step + 1):
            examined = time.monotonic()
            result = run.examine(distiller.averaged_weights(step + 1))
            journal.record_skills(step + 1, result.skills, result.picture)
            answers = {**results, AFTER: result}
            weights = distiller.weights(step + 1)
            report_so_far(config, Outcome(steps=step + 1, weights=weights, exam=run.exam, results=answers))
            began += time.monotonic() - examined  # an exam is no training time
    if config.eval.every:
        display.say("evaluating the student")
        results[AFTER] = run.examine(distiller.averaged_weights(when.steps))
        journal.record_skills(when.steps, results[AFTER].skills, results[AFTER].picture)
    journal.close()
    return Outcome(steps=when.steps, weights=distiller.weights(when.steps), exam=run.exam, results=results)


class _Run:
    """What the loop takes, all of it in this process."""

    def __init__(self, config: RunConfig, rows: dict[str, int]):
        self._config = config
        self._family = build.family(config)
        self._buckets = build.buckets(config)
        self._teaching = build.teaching(config)
        self._exam_grid = build.exam_grid(config)
        self.plan = build.plan(config, rows)
        self.fields = {name: build.field(config, name) for name in config.experts}
        self.policy = build.policy(config)
        self.distiller = build.distiller(config)
        self.exam = build.evaluation(config)

    def encode(self, group: Group) -> Condition:
        rows = [[self._buckets[group.route][sample.row]] for sample in group.samples]
        conditions = [self._family.encode(row) for row in rows]
        if build.with_clean(self._config):
            conditions = [self._family.with_clean(c, row) for c, row in zip(conditions, rows, strict=True)]
        return Condition.concatenate(conditions)

    def states(self, group: Group, condition: Condition) -> tuple[Query, ...]:
        config, solver = self._config, build.solver(self._config)
        if solver is None or not isinstance(config.state, ExpertRollout):
            return self.policy.queries(group, condition)
        (expert,) = self._teaching.shares[group.route]
        grid, both_branches = self.plan.grid(group.size), build.objective(config).both_branches
        return self.fields[expert].queries(group, condition, config.run.seed, grid, solver, both_branches)

    def learn(self, query: Query) -> Example:
        answers = {name: self.fields[name].answer(query) for name in self._teaching.asked(query.route)}
        return self._teaching.example(query, answers)

    def examine(self, weights: Weights | None) -> ExamResult:
        """The student with these weights; None is the base."""
        self.policy.load(weights)
        return self.examine_field(self.policy)

    def examine_field(self, field: Field | Policy) -> ExamResult:
        answers = []
        for sheet in self.exam.sheets:
            condition = self._family.encode(sheet.rows)
            grid = self._exam_grid(self._family.size(sheet.rows[0]))
            x_0 = generate(field.velocity, sheet.noise, grid, condition, field.device)
            answers.append(self._family.decode(x_0))
        return self.exam.result(answers)
