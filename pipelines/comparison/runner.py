"""Runs what is missing of a comparison, a few at a time on one set of services."""

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any

import ray
from rich.console import Console

from actors.journal import METRICS, SKILLS, rows
from fields.evaluation.base import Skills
from pipelines.cluster.demands import RunDemands
from pipelines.cluster.deployment import RunServices
from pipelines.comparison.jobs import Job, weights_digest
from pipelines.comparison.store import Store
from pipelines.config.comparison import Comparison
from pipelines.config.recipe import recipe
from pipelines.config.run import BASE, RunConfig
from pipelines.parts.run_parts import RunParts
from pipelines.run.distributed import end, start_learner
from pipelines.run.origin import Origin


async def run_all(
    comparison: Comparison,
    jobs: Sequence[Job],
    parts: Mapping[str, RunParts],
    store: Store,
    rerun: bool,
    differing: list[str],
    console: Console,
) -> None:
    """Deploy the services once, then every job, a few at a time."""
    connect(comparison, jobs[0].config)
    services = RunServices(parts[jobs[0].key])
    services.deploy()
    slots = asyncio.Semaphore(comparison.concurrency)
    done = 0

    async def run(job: Job) -> None:
        nonlocal done
        async with slots:
            result = await _run(job, parts[job.key])
        done += 1
        before = store.get(job)
        if rerun and before is not None:
            same = (result["weights_sha256"], result["skills"]) == (before["weights_sha256"], before["skills"])
            differing.extend([] if same else [f"{job.key} seed {job.config.run.seed}: another student than in {store.path}"])
            console.print(
                f"{job.key} seed {job.config.run.seed}: {'the same student, to the last bit' if same else 'DIFFERENT'}"
            )
            return
        store.put(job, result)
        console.print(f"{done}/{len(jobs)} {job.key} seed {job.config.run.seed}: {result['seconds']:.0f} s")

    try:
        asked = jobs[0].config.eval.model_dump_json(exclude={"every"})
        judged = f"{weights_digest(jobs[0].config)[:12]} {asked}"
        if store.content.get("experts_of") != judged:
            skills = await _expert_skills(jobs[0], parts[jobs[0].key])
            store.content |= {"experts": skills, "experts_of": judged}
            store.save()
        await asyncio.gather(*(run(job) for job in jobs))
    finally:
        services.delete()


def connect(comparison: Comparison, config: RunConfig) -> None:
    """Start a local cluster, unless this process has one, with as many CPUs as the runs ask for in Ray's bookkeeping: it
    starts a process for each."""
    if ray.is_initialized():
        return
    demands = RunDemands.of(config)
    asked = [*demands.actors, *demands.services.values()]
    cpus = ceil(comparison.concurrency * sum(demand.count * demand.num_cpus for demand in asked))
    ray.init(
        address="local",
        num_cpus=max(cpus, os.cpu_count() or 1),
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=False,
    )


async def _expert_skills(job: Job, parts: RunParts) -> dict[str, Skills]:
    """What the base and the experts can do, on the same exam."""
    learner = start_learner(parts, Origin())
    try:
        skills = {BASE: (await learner.examine_student.remote(None)).skills}
        for name in job.config.experts:
            build_client = partial(RunServices(parts).expert_client, name)
            skills[name] = (await learner.examine_expert.remote(name, build_client)).skills
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
    steps = rows(config.folder / METRICS)
    result = {
        "settings": recipe(config) | {"steps": config.run.steps},
        "weights_sha256": weights.checksum,
        "seconds": steps[-1]["seconds"] if steps else 0.0,
        "samples": sum(row["samples"] for row in steps),
        "loss": steps[-1]["loss"] if steps else None,
        "skills": skills,
        "curve": [
            {
                "step": row["step"],
                "seconds": steps[row["step"] - 1]["seconds"],
                "samples": sum(step["samples"] for step in steps[: row["step"]]),
                "skills": row["skills"],
            }
            for row in rows(config.folder / SKILLS)
        ],
    }
    shutil.rmtree(config.folder)
    return result
