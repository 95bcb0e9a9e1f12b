"""Compare methods over seeds: `python -m pipelines.compare COMPARISON.yaml [--seeds N] [--rerun EXPERIMENT.VARIANT]`.

Every (variant, seed) is one distillation on a shared local cluster, whose expert services stay up across runs. Results go to
`compare.json` as they come; what stands there is not run again. Then the tables and plots are written.
"""

import argparse
import asyncio
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from actors.journal import METRICS, SKILLS, rows
from fields.evaluation import Skills
from pipelines import deployment
from pipelines.compare_config import Comparison
from pipelines.compare_jobs import Job, plan_jobs, weights_digest
from pipelines.compare_report import write_report
from pipelines.complain import complain
from pipelines.config import BASE, RunConfig
from pipelines.distributed import end, start_learner
from pipelines.load import ConfigError, load
from pipelines.outcome import package_versions
from pipelines.recipe import recipe
from pipelines.sources.scene import prepare_missing
from pipelines.validate import actor_demands, check_files, service_demands


def main(arguments: Sequence[str]) -> int:
    """Parse, run what is missing, report. Returns 2 for bad input, 1 if a rerun gave another result."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compare", description=__doc__)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--output", type=Path, help="folder of compare.json and the reports; default runs/compare-NAME")
    parser.add_argument("--seeds", type=int, help="run only the first so many of the comparison's seeds")
    parser.add_argument("--rerun", metavar="EXPERIMENT.VARIANT", help="run this again and compare it with what stands there")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        comparison = load(options.comparison, Comparison, {})
        if options.seeds is not None and not 1 <= options.seeds <= len(comparison.seeds):
            raise ConfigError(f"--seeds {options.seeds}: {options.comparison} has {len(comparison.seeds)}; allowed: 1 to that")
        jobs = plan_jobs(comparison, options.seeds, options.rerun)
        configs = {job.key: job.config for job in jobs}
        for config in configs.values():
            prepare_missing(config)
        row_counts = {key: check_files(config) for key, config in configs.items()}
    except ConfigError as error:
        complain(error)
        return 2
    output = options.output or Path("runs") / f"compare-{comparison.name}"
    store = Store(output / "compare.json", comparison)
    missing = jobs if options.rerun else [job for job in jobs if not store.has(job)]
    console.print(f"{len(jobs)} runs, {len(missing)} to do; results: {store.path}")
    differing: list[str] = []
    if missing:
        asyncio.run(_run_all(comparison, missing, row_counts, store, bool(options.rerun), differing, console))
    write_report(comparison, store.content, output, options.comparison)
    console.print(f"report: {output / 'compare.html'}, {output / 'compare.md'}")
    for line in differing:
        console.print(line)
    return 1 if differing else 0


class Store:
    """compare.json: every result by job key and seed."""

    def __init__(self, path: Path, comparison: Comparison):
        self.path = path
        empty: dict[str, Any] = {"name": comparison.name, "versions": package_versions(), "experts": {}, "runs": {}}
        self.content = json.loads(path.read_text()) if path.exists() else empty

    def has(self, job: Job) -> bool:
        """Whether the job's result stands here, at every guidance that is asked for."""
        result = self.get(job)
        return result is not None and all(f"{scale:g}" in result["skills"] for scale in job.guidance)

    def get(self, job: Job) -> dict[str, Any] | None:
        """The job's result."""
        return self.content["runs"].get(job.key, {}).get(str(job.config.run.seed))

    def put(self, job: Job, result: dict[str, Any]) -> None:
        """Write a result, whole or not at all."""
        self.content["runs"].setdefault(job.key, {})[str(job.config.run.seed)] = result
        self.save()

    def save(self) -> None:
        """Write the file under a temporary name, then rename it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".temporary")
        temporary.write_text(json.dumps(self.content, indent=1, sort_keys=True) + "\n")
        temporary.rename(self.path)


async def _run_all(
    comparison: Comparison,
    jobs: Sequence[Job],
    row_counts: dict[str, dict[str, int]],
    store: Store,
    rerun: bool,
    differing: list[str],
    console: Console,
) -> None:
    """Deploy the services once, then every job, a few at a time."""
    connect(comparison, jobs[0].config)
    deployment.deploy(jobs[0].config)
    slots = asyncio.Semaphore(comparison.concurrency)
    done = 0

    async def run(job: Job) -> None:
        nonlocal done
        async with slots:
            result = await _run(job, row_counts[job.key])
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
            skills = await _expert_skills(jobs[0], row_counts[jobs[0].key])
            store.content |= {"experts": skills, "experts_of": judged}
            store.save()
        await asyncio.gather(*(run(job) for job in jobs))
    finally:
        deployment.delete(jobs[0].config)


def connect(comparison: Comparison, config: RunConfig) -> None:
    """Start a local cluster, unless this process has one, with as many CPUs as the runs ask for in Ray's bookkeeping: it
    starts a process for each."""
    if ray.is_initialized():
        return
    cpus = ceil(
        comparison.concurrency
        * sum(demand.count * demand.num_cpus for demand in (*actor_demands(config), *service_demands(config).values()))
    )
    ray.init(
        address="local",
        num_cpus=max(cpus, os.cpu_count() or 1),
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=False,
    )


async def _expert_skills(job: Job, row_counts: dict[str, int]) -> dict[str, Skills]:
    """What the base and the experts can do, on the same exam."""
    learner = start_learner(job.config, row_counts)
    try:
        skills = {BASE: (await learner.examine_student.remote(None)).skills}
        for name in job.config.experts:
            build_client = partial(deployment.expert_client, job.config, name)
            skills[name] = (await learner.examine_expert.remote(build_client)).skills
        return skills
    finally:
        end(learner)


async def _run(job: Job, row_counts: dict[str, int]) -> dict[str, Any]:
    """Train and examine one student; its folder is deleted once the result is taken."""
    config = job.config
    shutil.rmtree(config.folder, ignore_errors=True)
    learner = start_learner(config, row_counts)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
