"""A run on a Ray cluster: expert and encoder services, rollout workers, the learner."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.serve import Application

from actors.examiner import Examiner
from actors.learner import Learner
from actors.rollout_pool import RolloutPool
from actors.rollout_worker import RolloutWorker
from actors.stream import ExpertRollouts, TargetStream
from fields.carriers import Weights
from fields.distiller import Distiller
from fields.evaluation import ExamResult
from pipelines import build
from pipelines.config import AFTER, BASE, BEFORE, SHARED, Encoder, Expert, RunConfig
from pipelines.method_config import ExpertRollout
from pipelines.outcome import Outcome
from pipelines.progress import Display
from pipelines.report import report_so_far
from pipelines.reserve import Reservation
from pipelines.sources.scene import prepare_missing
from pipelines.stopping import stop_requests
from services.applications import delete, delete_and_wait, deploy
from services.client import CallLimits, ServiceClient
from services.encoder import encoder_application
from services.expert import expert_application
from services.expert_client import ExpertClient
from services.resources import Resources
from services.shared_experts import shared_experts_application

_ENCODER = "encoder"
_POLL_S = 0.5

Actor = Any  # a handle: the types that Ray gives know only methods marked by `ray.method`
Workers = list[Actor]


def run_distributed(
    config: RunConfig, rows: dict[str, int], resume: Path | None, start: int, display: Display, reservation: Reservation
) -> Outcome | None:
    """Deploy, train, evaluate, and take down what was deployed; Ray is connected already.

    Returns None for a run that was asked to stop (SIGTERM): it saved a checkpoint at its next step and ended.
    """
    torch.set_num_threads(config.run.threads)  # the student's start is computed here too, for its exam
    services = applications(config)
    display.say(f"starting the learner, {config.rollout.workers} rollout workers and the services {', '.join(services)}")
    actors = start_actors(config, rows, resume, start, reservation)
    try:
        reservation.make_room()
        deploy(services)
        ray.get([worker.ready.remote() for worker in actors.workers])
        return asyncio.run(_train_and_evaluate(config, actors, start, display))
    finally:
        actors.kill()
        delete(list(services))
        reservation.release()


def applications(config: RunConfig) -> dict[str, Application]:
    """The Serve applications of a run's experts and encoder, by name."""
    experts = {
        application_name(config, name): expert_application(
            partial(build.field, config, name), config.run.threads, _resources(expert)
        )
        for name, expert in config.experts.items()
        if expert.placement == "separate"
    }
    if shared := config.shared_experts:
        experts[application_name(config, SHARED)] = shared_experts_application(
            partial(build.shared_field, config), config.run.threads, _resources(next(iter(shared.values())))
        )
    encoder = encoder_application(
        partial(build.family, config, config.encoder.num_gpus),
        config.encoder.cache_bytes,
        config.run.threads,
        config.run.name,
        _resources(config.encoder),
    )
    return experts | {application_name(config, _ENCODER): encoder}


@dataclass(frozen=True, slots=True)
class Actors:
    """A run's own actors."""

    learner: Actor
    workers: Workers

    def kill(self) -> None:
        """End them, whatever they are doing."""
        for actor in (self.learner, *self.workers):
            ray.kill(actor)


def start_actors(
    config: RunConfig,
    rows: dict[str, int],
    resume: Path | None = None,
    start: int = 0,
    reservation: Reservation | None = None,
) -> Actors:
    """Start the rollout workers and the learner, in what is reserved for them; the stream connects once training begins."""
    workers = _start_workers(config, reservation)
    return Actors(_start_learner(config, rows, workers, resume, start, reservation), workers)


def application_name(config: RunConfig, service: str) -> str:
    """The Serve application of one of the run's services."""
    return f"{config.run.services or config.run.name}-{service}"


def delete_leftovers(config: RunConfig) -> None:
    """Delete what an earlier try of the run left: Serve's applications outlive a driver that was killed."""
    delete_and_wait([application_name(config, service) for service in (*config.experts, SHARED, _ENCODER)])


def _resources(section: Expert | Encoder) -> Resources:
    return Resources(
        replicas=section.replicas,
        num_cpus=section.num_cpus,
        num_gpus=section.num_gpus,
        node_labels=section.node_labels,
    )


def _place(reservation: Reservation | None, bundle: int) -> dict[str, Any]:
    return reservation.place(bundle) if reservation else {}


def _start_workers(config: RunConfig, reservation: Reservation | None) -> Workers:
    rollout = config.rollout
    options = {"num_cpus": rollout.num_cpus, "num_gpus": rollout.num_gpus, "max_restarts": -1}
    return [
        ray.remote(RolloutWorker)
        .options(name=f"{config.run.name}/rollout-{n}", **options, **_place(reservation, 1 + n))
        .remote(partial(build.policy, config), config.run.threads)
        for n in range(rollout.workers)
    ]


def _start_learner(
    config: RunConfig, rows: dict[str, int], workers: Workers, resume: Path | None, start: int, reservation: Reservation | None
) -> Actor:
    schedule = build.schedule(config, start)
    options = {"num_cpus": config.learner.num_cpus, "num_gpus": config.learner.num_gpus}
    return (
        ray.remote(Learner)
        .options(name=f"{config.run.name}/learner", **options, **_place(reservation, 0))
        .remote(
            build_distiller=partial(_distiller, config),
            build_stream=partial(_stream, config, rows, workers, range(start, schedule.steps)),
            build_examiner=partial(examiner, config, workers),
            schedule=schedule,
            folder=config.folder.absolute(),
            resume=resume.absolute() if resume else None,
            recipe=build.recipe(config),
            threads=config.run.threads,
            run=config.run.name,
            loggers=config.run.loggers,
        )
    )


def _distiller(config: RunConfig) -> Distiller:
    prepare_missing(config)  # the learner may be on another node than the driver
    return build.distiller(config)


def _stream(config: RunConfig, rows: dict[str, int], workers: Workers, steps: range) -> TargetStream:
    return TargetStream(
        plan=build.plan(config, rows),
        buckets=build.buckets(config),
        encoder=client(config, _ENCODER),
        rollouts=RolloutPool(workers, config.run.name),
        experts=expert_clients(config),
        teaching=build.teaching(config),
        expert_rollouts=_expert_rollouts(config),
        with_clean=build.with_clean(config),
        steps=steps,
        lag=config.learner.lag,
    )


def _expert_rollouts(config: RunConfig) -> ExpertRollouts | None:
    solver = build.solver(config)
    if solver is None or not isinstance(config.state, ExpertRollout):
        return None
    return ExpertRollouts(
        seed=config.run.seed, grid=build.grid(config), solver=solver, both_branches=build.objective(config).both_branches
    )


def examiner(config: RunConfig, workers: Workers) -> Examiner:
    """Gives the exam to students, by these workers, and to experts; used from one event loop."""
    pool = RolloutPool(workers, config.run.name)
    return Examiner(build.evaluation(config), build.family(config), build.exam_grid(config), client(config, _ENCODER), pool)


def expert_clients(config: RunConfig) -> dict[str, ExpertClient]:
    """The way to every expert; those that share an application share its client."""
    shared = client(config, SHARED) if config.shared_experts else None
    separate = {name: ExpertClient(client(config, name)) for name in config.experts if name not in config.shared_experts}
    return separate | {name: ExpertClient(shared, name) for name in config.shared_experts if shared}


def client(config: RunConfig, service: str) -> ServiceClient:
    """A client of one of the run's services."""
    return ServiceClient(application_name(config, service), service, config.run.name, CallLimits())


async def _train_and_evaluate(config: RunConfig, actors: Actors, start: int, display: Display) -> Outcome | None:
    learner, exams = actors.learner, examiner(config, actors.workers)
    results: dict[str, ExamResult] = {}
    if config.eval.every:
        display.say("evaluating base, experts and the student's start")
        results = await _evaluate_before(config, exams)
        if start == 0:
            await learner.record_skills.remote(0, results[BEFORE].skills, results[BEFORE].picture)

    def report(student: Weights, result: ExamResult) -> None:
        answers = {**results, AFTER: result}
        report_so_far(config, Outcome(steps=student.policy_version, weights=student, exam=exams.exam, results=answers))

    await _train(learner, display, report)
    progress = await learner.progress.remote()
    if progress.step < config.run.steps:
        await learner.close.remote()
        return None
    weights, averaged = await learner.student.remote()
    if config.eval.every:
        display.say("evaluating the student")
        results[AFTER] = await exams.student(averaged)
        await learner.record_skills.remote(progress.step, results[AFTER].skills, results[AFTER].picture)
    await learner.close.remote()
    return Outcome(steps=progress.step, weights=weights, exam=exams.exam, results=results)


async def _evaluate_before(config: RunConfig, exams: Examiner) -> dict[str, ExamResult]:
    """The exams of base, experts and the student's start, in flight together."""
    tensors = build.start_tensors(config)
    takers = {BASE: exams.student(None)}
    takers |= {name: exams.expert(expert) for name, expert in expert_clients(config).items()}
    if tensors is not None:
        takers[BEFORE] = exams.student(Weights.of(0, tensors))
    results = dict(zip(takers, await asyncio.gather(*takers.values()), strict=True))
    return {BEFORE: results[BASE]} | results


async def _train(learner: Actor, display: Display, report: Callable[[Weights, ExamResult], None]) -> None:
    """Show the progress until training ends, and report each exam that is taken meanwhile."""
    reported: int | None = None
    training = asyncio.ensure_future(asyncio.wrap_future(learner.train.remote().future()))
    with stop_requests() as stop:
        while not training.done():
            await asyncio.wait([training], timeout=_POLL_S)
            if stop.is_set():
                await learner.stop.remote()
            progress = await learner.progress.remote()
            if progress.update is not None:
                display.update(progress.step, progress.update, progress.samples, progress.seconds, progress.staleness)
            if progress.examined != reported:
                reported = progress.examined
                report(*await learner.exam.remote())
    await training
