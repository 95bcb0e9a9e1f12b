"""Runs what is missing of a comparison, a few at a time on one set of services."""

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import count
from math import ceil
from typing import Any

import ray

from actors.journal import METRICS, SKILLS, rows
from fields.carriers import Weights
from fields.evaluation.base import Skills
from fields.scene.exam import Exam
from pipelines.cluster import connect
from pipelines.cluster.demands import RunDemands
from pipelines.cluster.deployment import RunServices
from pipelines.cluster.waiting import waiting_for
from pipelines.comparison.jobs import Job, settings, weights_digest
from pipelines.comparison.store import Store
from pipelines.config.comparison import Comparison
from pipelines.config.run import BASE, RunConfig
from pipelines.parts.run_parts import RunParts
from pipelines.run.learner_process import end, start_learner
from pipelines.run.origin import Origin
from pipelines.run_folder.time_to_skill import exams_taken


async def run_all(
    comparison: Comparison,
    jobs: Sequence[Job],
    parts: Mapping[str, RunParts],
    store: Store,
    rerun: bool,
    say: Callable[[str], None],
) -> list[str]:
    """Deploy the services once, then run every job, a few at a time, and put its result into the store.

    With `rerun`, a result that the store has is compared with the new one instead of being replaced; returns a line for each
    job whose student differs. `parts` is job key -> the checked parts of a run of that key, whatever its seed.
    """
    _start_ray(comparison, jobs[0].config, say)
    services = RunServices(parts[jobs[0].key])
    with waiting_for("the services", say):
        services.deploy()
    slots = asyncio.Semaphore(comparison.concurrency)
    done = count(1)

    async def run(job: Job) -> str | None:
        async with slots:
            result = await _run(job, with_seed_of(job, parts[job.key]))
        name, before = f"{job.key} seed {job.config.run.seed}", store.get(job)
        if not rerun or before is None:
            store.put(job, result)
            say(f"{next(done)}/{len(jobs)} {name}: {result['seconds']:.0f} s")
            return None
        if all(result[key] == before[key] for key in ("weights_sha256", "skills")):
            say(f"{name}: the same student, to the last bit")
            return None
        say(f"{name}: DIFFERENT")
        return f"{name}: another student than in {store.path}"

    try:
        judged = _exam(jobs[0], parts[jobs[0].key])
        if store.content.get("experts_of") != judged:
            with waiting_for("the exams of base and experts", say):
                skills = await _expert_skills(jobs[0], with_seed_of(jobs[0], parts[jobs[0].key]))
            store.content |= {"experts": skills, "experts_of": judged}
            store.save()
        return [line for line in await asyncio.gather(*(run(job) for job in jobs)) if line is not None]
    finally:
        services.delete()


def with_seed_of(job: Job, checked: RunParts) -> RunParts:
    """The parts of a job's own run: its name and seed, and everything else as it was checked for all seeds of its key."""
    return RunParts(checked.config.model_copy(update={"run": job.config.run}), checked.rows)


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


def _exam(job: Job, parts: RunParts) -> str:
    """What decides the skills of base and experts."""
    assert isinstance(parts.evaluation, Exam)
    asked = job.config.eval.model_dump_json(exclude={"every"})
    return f"{weights_digest(job.config)[:12]} {asked} {','.join(parts.evaluation.categories)}"


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
    result = _result(config, weights, skills)
    shutil.rmtree(config.folder)
    return result


def _result(config: RunConfig, weights: Weights, skills: Mapping[str, Skills]) -> dict[str, Any]:
    """A run's entry in compare.json, from its folder and what its student can do at each guidance scale."""
    steps = rows(config.folder / METRICS)
    return {
        "settings": settings(config),
        "weights_sha256": weights.checksum,
        "seconds": steps[-1]["seconds"] if steps else 0.0,
        "samples": sum(row["samples"] for row in steps),
        "loss": steps[-1]["loss"] if steps else None,
        "skills": skills,
        "curve": [asdict(exam) for exam in exams_taken(steps, rows(config.folder / SKILLS))],
    }
