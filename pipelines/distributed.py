"""A run on a Ray cluster: expert and encoder services, rollout workers, the learner."""

import asyncio
from functools import partial
from pathlib import Path

import numpy as np
import ray
from ray.actor import ActorHandle

from actors.evaluation import answers
from actors.learner import Learner
from actors.rollout_pool import RolloutPool
from actors.rollout_worker import PublishedWeights, RolloutWorker
from actors.stream import TargetStream
from fields.carriers import Condition, Weights
from fields.scene.exam import Exam, Skills, grid_of
from pipelines import build
from pipelines.config import RunConfig
from pipelines.outcome import AFTER, BASE, BEFORE, ExamResult, Outcome
from pipelines.progress import Display
from services.applications import delete, deploy
from services.client import CallLimits, ServiceClient
from services.encoder import encoder_application
from services.expert import expert_application
from services.resources import Resources

_ENCODER = "encoder"
_POLL_S = 0.5


def run_distributed(config: RunConfig, rows: dict[str, int], resume: Path | None, start: int, display: Display) -> Outcome:
    """Deploy, train, evaluate, and take down what was deployed; Ray is connected already."""
    applications = {
        _application(config, name): expert_application(
            partial(build.field, config, name),
            config.run.threads,
            Resources(replicas=expert.replicas, num_cpus=expert.num_cpus, num_gpus=expert.num_gpus),
        )
        for name, expert in config.experts.items()
    }
    applications[_application(config, _ENCODER)] = encoder_application(
        partial(build.family, config),
        config.encoder.cache_rows,
        config.run.threads,
        config.run.name,
        Resources(replicas=config.encoder.replicas, num_cpus=config.encoder.num_cpus, num_gpus=config.encoder.num_gpus),
    )
    display.say(f"starting {config.rollout.workers} rollout workers, the learner and the services {', '.join(applications)}")
    workers = _start_workers(config)
    learner = _start_learner(config, rows, workers, resume, start)
    try:
        deploy(applications)
        ray.get([worker.ready.remote() for worker in workers])
        return asyncio.run(_train(config, workers, learner, start, display))
    finally:
        for actor in (learner, *workers):
            ray.kill(actor)
        delete(list(applications))


def _application(config: RunConfig, service: str) -> str:
    return f"{config.run.name}-{service}"


def _start_workers(config: RunConfig) -> list[ActorHandle]:
    rollout = config.rollout
    return [
        ray.remote(RolloutWorker)
        .options(name=f"{config.run.name}/rollout-{n}", num_cpus=rollout.num_cpus, num_gpus=rollout.num_gpus, max_restarts=-1)
        .remote(partial(build.policy, config), config.run.threads)
        for n in range(rollout.workers)
    ]


def _start_learner(
    config: RunConfig, rows: dict[str, int], workers: list[ActorHandle], resume: Path | None, start: int
) -> ActorHandle:
    schedule = build.schedule(config, start)
    return (
        ray.remote(Learner)
        .options(name=f"{config.run.name}/learner", num_cpus=config.learner.num_cpus, num_gpus=config.learner.num_gpus)
        .remote(
            build_distiller=partial(build.distiller, config),
            build_stream=partial(_stream, config, rows, workers, range(start, schedule.steps)),
            build_evaluate=partial(_evaluate_student, config, workers),
            schedule=schedule,
            folder=config.folder.absolute(),
            resume=resume.absolute() if resume else None,
            recipe=build.recipe(config),
            threads=config.run.threads,
            run=config.run.name,
        )
    )


def _stream(config: RunConfig, rows: dict[str, int], workers: list[ActorHandle], steps: range) -> TargetStream:
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


def _client(config: RunConfig, service: str) -> ServiceClient:
    return ServiceClient(_application(config, service), service, config.run.name, CallLimits())


class _Examiner:
    """Gives the exam to the student (by rollout workers) and to experts (by their own services)."""

    def __init__(self, config: RunConfig, workers: list[ActorHandle]):
        self.exam = Exam(config.eval.samples, config.eval.seed)
        self._config = config
        self._family = build.family(config)
        self._grid = build.grid(config)
        self._encoder = _client(config, _ENCODER)
        self._pool = RolloutPool(workers, config.run.name)

    async def student(self, weights: Weights | None) -> ExamResult:
        """The student with these weights; None is the bare base."""
        published = weights and PublishedWeights(
            policy_version=weights.policy_version, checksum=weights.checksum, reference=ray.put(weights)
        )

        async def generate(noise, grid, condition: Condition):
            return (await self._pool.call("generate", noise, grid, condition, published))[1]

        return await self._take(generate)

    async def expert(self, name: str) -> ExamResult:
        """An expert, by its own ODE."""
        return await self._take(partial(_client(self._config, name).call, "generate"))

    async def _take(self, generate) -> ExamResult:
        images = await answers(self.exam, self._family, self._grid, self._encoder, generate)
        return ExamResult(answers=images, skills=self.exam.mark(images))


def _evaluate_student(config: RunConfig, workers: list[ActorHandle]):
    examiner = _Examiner(config, workers)

    async def evaluate(weights: Weights) -> tuple[Skills, np.ndarray]:
        result = await examiner.student(weights)
        return result.skills, _picture(result)

    return evaluate


def _picture(result: ExamResult) -> np.ndarray:
    """The first answers of every category, a row each."""
    columns = min(8, len(result.answers[0]))
    return grid_of(np.concatenate([images[:columns] for images in result.answers]), columns)


async def _train(config: RunConfig, workers: list[ActorHandle], learner: ActorHandle, start: int, display: Display) -> Outcome:
    examiner = _Examiner(config, workers)
    results: dict[str, ExamResult] = {}
    if config.eval.every:
        display.say("evaluating base, experts and the student's start")
        tensors = build.start_tensors(config)
        takers = {BASE: examiner.student(None)} | {name: examiner.expert(name) for name in config.experts}
        results = dict(zip(takers, await asyncio.gather(*takers.values()), strict=True))
        results[BEFORE] = await examiner.student(Weights.of(0, tensors)) if tensors else results[BASE]
        if start == 0:
            await learner.record_skills.remote(0, results[BEFORE].skills, _picture(results[BEFORE]))
    training = asyncio.wrap_future(learner.train.remote().future())
    while not training.done():
        await asyncio.wait([training], timeout=_POLL_S)
        progress = await learner.progress.remote()
        if progress.update is not None:
            display.update(progress.step, progress.update, progress.samples, progress.seconds, progress.staleness)
    await training
    weights, averaged = await learner.student.remote()
    if config.eval.every:
        display.say("evaluating the student")
        results[AFTER] = await examiner.student(averaged)
        await learner.record_skills.remote(config.run.steps, results[AFTER].skills, _picture(results[AFTER]))
    return Outcome(
        steps=config.run.steps,
        samples=progress.samples,
        seconds=progress.seconds,
        weights=weights,
        exam=examiner.exam,
        results=results,
    )
