"""A run on a Ray cluster: expert and encoder services, rollout workers, the learner."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import ray

from actors.examiner import Examiner
from actors.learner import Learner
from actors.rollout_pool import RolloutPool
from actors.rollout_worker import RolloutWorker
from actors.stream import TargetStream
from fields.carriers import Weights
from fields.scene.exam import Exam, ExamResult
from pipelines import build
from pipelines.config import AFTER, BASE, BEFORE, Encoder, Expert, RunConfig
from pipelines.outcome import Outcome
from pipelines.progress import Display
from services.applications import delete, deploy
from services.client import CallLimits, ServiceClient
from services.encoder import encoder_application
from services.expert import expert_application
from services.resources import Resources

_ENCODER = "encoder"
_POLL_S = 0.5

Actor = Any  # a handle: the types that Ray gives know only methods marked by `ray.method`
Workers = list[Actor]


def run_distributed(config: RunConfig, rows: dict[str, int], resume: Path | None, start: int, display: Display) -> Outcome:
    """Deploy, train, evaluate, and take down what was deployed; Ray is connected already."""
    applications = {
        application_name(config, name): expert_application(
            partial(build.field, config, name), config.run.threads, _resources(expert)
        )
        for name, expert in config.experts.items()
    }
    applications[application_name(config, _ENCODER)] = encoder_application(
        partial(build.family, config, config.encoder.num_gpus),
        config.encoder.cache_rows,
        config.run.threads,
        config.run.name,
        _resources(config.encoder),
    )
    display.say(f"starting the learner, {config.rollout.workers} rollout workers and the services {', '.join(applications)}")
    workers = _start_workers(config)
    learner = _start_learner(config, rows, workers, resume, start)
    try:
        deploy(applications)
        ray.get([worker.ready.remote() for worker in workers])
        return asyncio.run(_train_and_evaluate(config, workers, learner, start, display))
    finally:
        for actor in (learner, *workers):
            ray.kill(actor)
        delete(list(applications))


def application_name(config: RunConfig, service: str) -> str:
    """The Serve application of one of the run's services."""
    return f"{config.run.name}-{service}"


def _resources(section: Expert | Encoder) -> Resources:
    return Resources(replicas=section.replicas, num_cpus=section.num_cpus, num_gpus=section.num_gpus)


def _start_workers(config: RunConfig) -> Workers:
    rollout = config.rollout
    options = {"num_cpus": rollout.num_cpus, "num_gpus": rollout.num_gpus, "max_restarts": -1}
    return [
        ray.remote(RolloutWorker)
        .options(name=f"{config.run.name}/rollout-{n}", **options)
        .remote(partial(build.policy, config), config.run.threads)
        for n in range(rollout.workers)
    ]


def _start_learner(config: RunConfig, rows: dict[str, int], workers: Workers, resume: Path | None, start: int) -> Actor:
    schedule = build.schedule(config, start)
    return (
        ray.remote(Learner)
        .options(name=f"{config.run.name}/learner", num_cpus=config.learner.num_cpus, num_gpus=config.learner.num_gpus)
        .remote(
            build_distiller=partial(build.distiller, config),
            build_stream=partial(_stream, config, rows, workers, range(start, schedule.steps)),
            build_examiner=partial(_examiner, config, workers),
            schedule=schedule,
            folder=config.folder.absolute(),
            resume=resume.absolute() if resume else None,
            recipe=build.recipe(config),
            threads=config.run.threads,
            run=config.run.name,
        )
    )


def _stream(config: RunConfig, rows: dict[str, int], workers: Workers, steps: range) -> TargetStream:
    clients = {name: _client(config, name) for name in config.experts}
    return TargetStream(
        plan=build.plan(config, rows),
        buckets=build.buckets(config),
        encoder=_client(config, _ENCODER),
        rollouts=RolloutPool(workers, config.run.name),
        experts={name: clients[route.expert] for name, route in config.routes.items()},
        steps=steps,
        lag=config.learner.lag,
    )


def _examiner(config: RunConfig, workers: Workers) -> Examiner:
    exam = Exam(config.eval.samples, config.eval.seed)
    pool = RolloutPool(workers, config.run.name)
    return Examiner(exam, build.family(config), build.grid(config)(None), _client(config, _ENCODER), pool)


def _client(config: RunConfig, service: str) -> ServiceClient:
    return ServiceClient(application_name(config, service), service, config.run.name, CallLimits())


async def _train_and_evaluate(config: RunConfig, workers: Workers, learner: Actor, start: int, display: Display) -> Outcome:
    examiner = _examiner(config, workers)
    results: dict[str, ExamResult] = {}
    if config.eval.every:
        display.say("evaluating base, experts and the student's start")
        results = await _evaluate_before(config, examiner)
        if start == 0:
            await learner.record_skills.remote(0, results[BEFORE].skills, results[BEFORE].picture)
    await _train(learner, display)
    progress = await learner.progress.remote()
    weights, averaged = await learner.student.remote()
    if config.eval.every:
        display.say("evaluating the student")
        results[AFTER] = await examiner.student(averaged)
        await learner.record_skills.remote(progress.step, results[AFTER].skills, results[AFTER].picture)
    return Outcome(
        steps=progress.step,
        weights=weights,
        exam=examiner.exam,
        results=results,
    )


async def _evaluate_before(config: RunConfig, examiner: Examiner) -> dict[str, ExamResult]:
    """The exams of base, experts and the student's start, in flight together."""
    tensors = build.start_tensors(config)
    takers = {BASE: examiner.student(None)}
    takers |= {name: examiner.expert(_client(config, name)) for name in config.experts}
    if tensors is not None:
        takers[BEFORE] = examiner.student(Weights.of(0, tensors))
    results = dict(zip(takers, await asyncio.gather(*takers.values()), strict=True))
    return {BEFORE: results[BASE]} | results


async def _train(learner: Actor, display: Display) -> None:
    training = asyncio.ensure_future(asyncio.wrap_future(learner.train.remote().future()))
    while not training.done():
        await asyncio.wait([training], timeout=_POLL_S)
        progress = await learner.progress.remote()
        if progress.update is not None:
            display.update(progress.step, progress.update, progress.samples, progress.seconds, progress.staleness)
    await training
