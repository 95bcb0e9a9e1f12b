"""A run by the plain loop of `fields/`, in this process and without Ray: for debugging, and as the oracle."""

import time
from collections.abc import Callable

from actors.journal import Journal
from fields import checkpoint
from fields.numerics import device_name
from fields.reference import distill
from pipelines.config.recipe import recipe
from pipelines.config.run import AFTER
from pipelines.config.sharing import alone
from pipelines.parts.run_parts import RunParts
from pipelines.run.one_process import OneProcess
from pipelines.run.origin import Origin
from pipelines.run.promise import device_warnings, rank_warnings
from pipelines.run_folder.outcome import Outcome
from pipelines.watch.progress import Display


def run_reference(
    parts: RunParts,
    origin: Origin,
    display: Display,
    clock: Callable[[], float] = time.monotonic,
    teachers: bool = True,
) -> Outcome:
    """Train and evaluate; writes the journal and the checkpoints.

    Args:
        parts: of the run.
        origin: where it begins.
        display: tells whoever waits.
        clock: of the seconds in the journal.
        teachers: whether base, experts and the student's start take the exam, too.
    """
    config = parts.config
    config.numerics.build().settle()
    run = OneProcess(parts)
    distiller, when = run.distiller, parts.schedule(origin.step)
    published = {0: distiller.weights(0)}
    results = run.examine_before(published[0], display) if config.eval.every and teachers else {}
    if origin.checkpoint is not None:
        published = dict(checkpoint.restore(origin.checkpoint, distiller).published)
    for line in (*device_warnings(device_name(distiller.device), {}, origin), *rank_warnings(1, origin)):
        display.say(line)
    journal = Journal(config.folder, when.start, config.run.loggers)
    checkpoints = config.folder / "checkpoints"
    began, samples, plan = clock(), 0, parts.plan
    steps = range(when.start, when.steps)
    for step, update in distill(plan, run.encode, run.policy, run.states, run.learn, distiller, published, steps, when.lag):
        ids = [sample_id for group in plan.groups(step) for sample_id in group.ids]
        samples += len(ids)
        seconds = clock() - began
        journal.record(step, update, when.lag.version(step), ids, seconds)
        display.update(step + 1, update, samples, seconds, step - when.lag.version(step))
        if when.saves_after(step + 1):
            checkpoint.save(checkpoints, step + 1, distiller, published, recipe(alone(config)))
            checkpoint.prune(checkpoints, when.keeping)
        if when.evaluates_after(step + 1):
            examined = clock()
            run.examine_meanwhile(step + 1, journal, results)
            began += clock() - examined  # an exam is no training time
    if config.eval.every:
        display.say("evaluating the student")
        apart = run.mismatch(when.steps) if steps else None
        results[AFTER] = run.examine(distiller.averaged_weights(when.steps))
        journal.record_skills(when.steps, results[AFTER].skills, results[AFTER].picture, apart)
    journal.close()
    return Outcome(steps=when.steps, weights=distiller.weights(when.steps), exam=parts.evaluation, results=results)
