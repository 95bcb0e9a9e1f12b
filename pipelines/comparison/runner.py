"""Runs what is missing of a comparison as distributed runs, a few at a time on one set of services."""

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any

import ray

from fields.evaluation.base import Skills
from pipelines.cluster import connect
from pipelines.cluster.demands import RunDemands
from pipelines.cluster.deployment import RunServices
from pipelines.cluster.waiting import waiting_for
from pipelines.comparison.jobs import Job
from pipelines.comparison.results import Results, judged_by, result_of
from pipelines.comparison.store import Store
from pipelines.config.comparison import Comparison
from pipelines.config.run import BASE, RunConfig
from pipelines.parts.run_parts import RunParts
from pipelines.run.learner_process import end, start_learner
from pipelines.run.origin import Origin


async def run_all(
    comparison: Comparison,
    jobs: Sequence[Job],
    parts: Mapping[str, RunParts],
    store: Store,
    results: Results,
    say: Callable[[str], None],
) -> list[str]:
    """Deploy the services once, then run every job, a few at a time.

    Args:
        comparison: whose jobs they are.
        jobs: to run.
        parts: job key -> the checked parts of a run of that key, whatever its seed.
        store: of the skills of base and experts.
        results: take what comes.
        say: tells whoever waits.

    Returns:
        A line for each job that was run again and whose student differs.
    """
    _start_ray(comparison, jobs[0].config, say)
    services = RunServices(parts[jobs[0].key])
    with waiting_for("the services", say):
        services.deploy()
    slots = asyncio.Semaphore(comparison.concurrency)

    async def run(job: Job) -> str | None:
        async with slots:
            result = await _run(job, parts[job.key].of_run(job.config.run))
        return results.take(job, result)

    try:
        first = parts[jobs[0].key].of_run(jobs[0].config.run)
        judged = judged_by(first.config, first.evaluation)
        if store.content.get("experts_of") != judged:
            with waiting_for("the exams of base and experts", say):
                skills = await _expert_skills(jobs[0], first)
            store.content |= {"experts": skills, "experts_of": judged}
            store.save()
        return [line for line in await asyncio.gather(*(run(job) for job in jobs)) if line is not None]
    finally:
        services.delete()


def _start_ray(comparison: Comparison, config: RunConfig, say: Callable[[str], None]) -> None:
    """Start a local cluster, unless this process has one.

    Its number of CPUs is what the runs that go on together ask for, however many the machine has: it is Ray's bookkeeping, and
    with fewer the runs would wait for one another.
    """
    if ray.is_initialized():
        return
    demands = RunDemands.of(config)
    asked = [*demands.actors, *demands.services.values()]
    cpus = ceil(comparison.concurrency * sum(demand.count * demand.num_cpus for demand in asked))
    connect.start(say, num_cpus=max(cpus, os.cpu_count() or 1), include_dashboard=False)


async def _expert_skills(job: Job, parts: RunParts) -> dict[str, Skills]:
    """Model (the base, each expert) -> its skills in the exam that the students take."""
    learner = start_learner(parts, Origin())
    try:
        skills = {BASE: (await learner.examine_student.remote(None)).skills}
        for name in job.config.experts:
            build_access = partial(RunServices(parts).expert_access, name)
            skills[name] = (await learner.examine_expert.remote(name, build_access)).skills
        return skills
    finally:
        end(learner)


async def _run(job: Job, parts: RunParts) -> dict[str, Any]:
    """Train and examine one student; its folder is deleted once the result is taken."""
    config = job.config
    shutil.rmtree(config.folder, ignore_errors=True)
    learner = start_learner(parts, Origin())
    try:
        await learner.train.remote()
        weights, averaged = await learner.student.remote()
        exams = {f"{scale:g}": await learner.examine_student.remote(averaged, scale) for scale in job.guidance}
        skills = {scale: exam.skills for scale, exam in exams.items()}
    finally:
        end(learner)
    result = result_of(config, weights, skills)
    shutil.rmtree(config.folder)
    return result
