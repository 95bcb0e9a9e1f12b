"""Runs what is missing of a comparison by the plain loop, without Ray: every run in a process of its own, on one core."""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

from rich.console import Console

from fields.evaluation.base import Skills
from pipelines.comparison.jobs import Job
from pipelines.comparison.results import Results, judged_by, result_of
from pipelines.comparison.store import Store
from pipelines.config.run import AFTER, BEFORE
from pipelines.parts.run_parts import RunParts
from pipelines.run.one_process import OneProcess
from pipelines.run.origin import Origin
from pipelines.run.reference import run_reference
from pipelines.watch.progress import Display


def run_all(
    jobs: Sequence[Job],
    parts: Mapping[str, RunParts],
    store: Store,
    results: Results,
    at_once: int,
    say: Callable[[str], None],
) -> list[str]:
    """Run every job; the seconds of its result are CPU seconds, so other work on the machine hardly touches them.

    Args:
        jobs: to run.
        parts: job key -> the checked parts of a run of that key, whatever its seed.
        store: of the skills of base and experts.
        results: take what comes.
        at_once: runs at a time.
        say: tells whoever waits.

    Returns:
        A line for each job that was run again and whose student differs.

    Raises:
        Exception: what the first run raised that failed; those under way then have come to their end, and no other began.
    """
    # by spawn: a forked process has the threads' locks of its parent, but not the threads
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        first = parts[jobs[0].key].of_run(jobs[0].config.run)
        if store.content.get("experts_of") != (judged := judged_by(first.config, first.evaluation)):
            say("examining base and experts")
            store.content |= {"experts": processes.submit(_teachers, first).result(), "experts_of": judged}
            store.save()
        running = {processes.submit(_run, parts[job.key].of_run(job.config.run)): job for job in jobs}
        try:
            return _taken(running, results)
        finally:
            _cancel(running)  # where somebody interrupts this


def _taken(running: Mapping[Future[dict[str, Any]], Job], results: Results) -> list[str]:
    """Take the results as they come, also of runs that were under way when another failed."""
    differing, failure = [], None
    for finished in as_completed(running):
        if finished.cancelled():
            continue
        if error := finished.exception():
            failure = failure or error
            _cancel(running)
        elif line := results.take(running[finished], finished.result()):
            differing.append(line)
    if failure:
        raise failure
    return differing


def _cancel(running: Iterable[Future[dict[str, Any]]]) -> None:
    for future in running:
        future.cancel()


def _teachers(parts: RunParts) -> dict[str, Skills]:
    """Model (the base, each expert) -> its skills in the exam that the students take."""
    parts.config.numerics.build().settle()
    run = OneProcess(parts)
    results = run.examine_before(run.distiller.weights(0), _quiet(parts))
    return {model: exam.skills for model, exam in results.items() if model != BEFORE}


def _run(parts: RunParts) -> dict[str, Any]:
    """Train and examine one student; its folder is deleted once the result is taken."""
    folder = parts.config.folder
    shutil.rmtree(folder, ignore_errors=True)
    outcome = run_reference(parts, Origin(), _quiet(parts), clock=time.process_time, teachers=False)
    result = result_of(parts.config, outcome.weights, {"1": outcome.results[AFTER].skills})
    shutil.rmtree(folder)
    return result


def _quiet(parts: RunParts) -> Display:
    return Display(Console(quiet=True), 0, parts.config.run.steps)
