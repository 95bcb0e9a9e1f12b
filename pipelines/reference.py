"""A run by the plain loop of `fields/`, in this process and without Ray: for debugging, and as the oracle."""

import time
from pathlib import Path

import torch

from actors.journal import Journal
from fields import checkpoint
from fields.carriers import Condition, Example, Query, Weights
from fields.evaluation import ExamResult
from fields.plan import Group
from fields.reference import distill
from fields.rollout import generate
from fields.solver import Velocity
from pipelines import build
from pipelines.config import AFTER, BASE, BEFORE, RunConfig
from pipelines.method_config import ExpertRollout
from pipelines.outcome import Outcome
from pipelines.progress import Display
from pipelines.recipe import recipe as run_recipe
from pipelines.report import report_so_far


def run_reference(config: RunConfig, rows: dict[str, int], resume: Path | None, display: Display) -> Outcome:
    """Train and evaluate; writes the journal and the checkpoints."""
    torch.set_num_threads(config.run.threads)
    family = build.family(config)
    plan = build.plan(config, rows)
    buckets = build.buckets(config)
    fields = {name: build.field(config, name) for name in config.experts}
    policy = build.policy(config)
    distiller = build.distiller(config)
    published = {0: distiller.weights(0)}
    exam, exam_grid = build.evaluation(config), build.exam_grid(config)

    def take(velocity: Velocity, device: torch.device) -> ExamResult:
        answers = []
        for sheet in exam.sheets:
            condition = family.encode(sheet.rows)
            grid = exam_grid(family.size(sheet.rows[0]))
            answers.append(family.decode(generate(velocity, sheet.noise, grid, condition, device)))
        return exam.result(answers)

    def take_with(weights: Weights | None) -> ExamResult:
        policy.load(weights)
        return take(policy.velocity, policy.device)

    def encode(group: Group) -> Condition:
        rows = [[buckets[group.route][sample.row]] for sample in group.samples]
        conditions = [family.encode(row) for row in rows]
        if build.with_clean(config):
            conditions = [family.with_clean(c, row) for c, row in zip(conditions, rows, strict=True)]
        return Condition.concatenate(conditions)

    teaching = build.teaching(config)
    solver, both_branches = build.solver(config), build.objective(config).both_branches

    def states(group: Group, condition: Condition) -> tuple[Query, ...]:
        if solver is None or not isinstance(config.state, ExpertRollout):
            return policy.queries(group, condition)
        (expert,) = teaching.shares[group.route]
        return fields[expert].queries(group, condition, config.run.seed, plan.grid(group.size), solver, both_branches)

    def learn(query: Query) -> Example:
        return teaching.example(query, {name: fields[name].answer(query) for name in teaching.asked(query.route)})

    results: dict[str, ExamResult] = {}
    if config.eval.every:
        display.say("evaluating base, experts and the student's start")
        results = {BASE: take_with(None), BEFORE: take_with(published[0])}
        results |= {name: take(field.velocity, field.device) for name, field in fields.items()}
    saved = checkpoint.read(resume) if resume else None
    if saved is not None:
        distiller.restore(saved.student, saved.ema, saved.optimizer, saved.step)
        published = dict(saved.published)
    when = build.schedule(config, saved.step if saved else 0)
    journal = Journal(config.folder, when.start, config.run.loggers)
    recipe = run_recipe(config)
    began = time.monotonic()
    samples = 0
    steps = range(when.start, when.steps)
    for step, update in distill(plan, encode, policy, states, learn, distiller, published, steps, when.lag):
        ids = [sample_id for group in plan.groups(step) for sample_id in group.ids]
        samples += len(ids)
        seconds = time.monotonic() - began
        journal.record(step, update, max(0, step - when.lag), ids, seconds)
        display.update(step + 1, update, samples, seconds, min(step, when.lag))
        if when.saves_after(step + 1):
            checkpoint.save(config.folder / "checkpoints", step + 1, distiller, published, recipe)
            checkpoint.prune(config.folder / "checkpoints", when.keep_checkpoints)
        if when.evaluates_after(step + 1):
            examined = time.monotonic()
            result = take_with(distiller.averaged_weights(step + 1))
            journal.record_skills(step + 1, result.skills, result.picture)
            weights = distiller.weights(step + 1)
            report_so_far(config, Outcome(steps=step + 1, weights=weights, exam=exam, results={**results, AFTER: result}))
            began += time.monotonic() - examined  # an exam is no training time
    if config.eval.every:
        display.say("evaluating the student")
        results[AFTER] = take_with(distiller.averaged_weights(when.steps))
        journal.record_skills(when.steps, results[AFTER].skills, results[AFTER].picture)
    journal.close()
    return Outcome(steps=when.steps, weights=distiller.weights(when.steps), exam=exam, results=results)
