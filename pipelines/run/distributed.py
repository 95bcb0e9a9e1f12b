"""A run on a Ray cluster: expert and encoder services, the learner with its rollout workers."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from actors.curriculum import Curriculum
from actors.examiner import Examiner
from actors.learner import Learner
from actors.rollout_pool import RolloutPool
from actors.rollout_worker import RolloutWorker
from actors.stream import ExpertRollouts, TargetStream
from fields.carriers import Weights
from fields.distiller import Distiller
from fields.evaluation.base import Evaluation, ExamResult
from pipelines.cluster import deployment
from pipelines.cluster.reserve import Reservation
from pipelines.cluster.waiting import waiting_for
from pipelines.config.method import ExpertRollout
from pipelines.config.recipe import recipe
from pipelines.config.run import AFTER, BASE, BEFORE, ENCODER, RunConfig
from pipelines.data.scene import prepare_missing
from pipelines.parts import build
from pipelines.reports.run_report import report_so_far
from pipelines.run.stopping import stop_requests
from pipelines.run_folder.changes import recorded_config
from pipelines.run_folder.outcome import Outcome
from pipelines.watch.progress import Display

_POLL_S = 0.5
_END_S = 10.0

Actor = Any  # a handle: the types that Ray gives know only methods marked by `ray.method`


def run_distributed(
    config: RunConfig, rows: dict[str, int], resume: Path | None, start: int, display: Display, reservation: Reservation
) -> Outcome | None:
    """Deploy, train, evaluate, and take down what was deployed; Ray is connected, and the run's folder has its configuration.

    Returns None for a run that was asked to stop (SIGTERM): it saved a checkpoint at its next step and ended.
    """
    torch.set_num_threads(config.run.threads)  # the student's start is computed here too, for its exam
    names = ", ".join(deployment.application_name(config, service) for service in config.services)
    own = config.run.services is None
    display.say(
        f"starting the learner, {config.rollout.workers} rollout workers and the services {names}"
        if own
        else f"starting the learner and {config.rollout.workers} rollout workers; using the services {names}"
    )
    learner = start_learner(config, rows, resume, start, reservation)
    try:
        reservation.make_room()
        if own:
            with waiting_for(f"the services {', '.join(config.services)} to load", display.say):
                deployment.deploy(config)
        with waiting_for("the learner and the rollout workers to load", display.say):
            ray.get(learner.ready.remote())
        return asyncio.run(_train_and_evaluate(config, learner, start, display))
    finally:
        end(learner)
        reservation.release()
        if own:
            deployment.delete(recorded_config(config.folder))


def start_learner(
    config: RunConfig,
    rows: dict[str, int],
    resume: Path | None = None,
    start: int = 0,
    reservation: Reservation | None = None,
) -> Actor:
    """Start the learner, and by it the rollout workers, in what is reserved for them; services are connected to when
    training begins."""
    schedule = build.schedule(config, start)
    options = {"num_cpus": config.learner.num_cpus, "num_gpus": config.learner.num_gpus}
    return (
        ray.remote(Learner)
        .options(name=f"{config.run.name}/learner", **options, **(reservation.place(0) if reservation else {}))
        .remote(
            build_distiller=partial(_distiller, config),
            build_rollouts=partial(_rollouts, config, reservation),
            build_stream=partial(_stream, config, rows, range(start, schedule.steps)),
            build_examiner=partial(_examiner, config),
            schedule=schedule,
            folder=config.folder.absolute(),
            resume=resume.absolute() if resume else None,
            recipe=recipe(config),
            threads=config.run.threads,
            run=config.run.name,
            loggers=config.run.loggers,
        )
    )


def end(learner: Actor) -> None:
    """End the learner and the rollout workers, whatever they are doing."""
    with suppress(RayError):  # it died, or its loop hangs: they go with it
        ray.get(learner.end_rollouts.remote(), timeout=_END_S)
    ray.kill(learner)


def _distiller(config: RunConfig) -> Distiller:
    prepare_missing(config)  # the learner may be on another node than the driver
    return build.distiller(config)


def _rollouts(config: RunConfig, reservation: Reservation | None) -> RolloutPool:
    return RolloutPool(partial(_start_worker, config, reservation), config.rollout.workers, config.run.name)


def _start_worker(config: RunConfig, reservation: Reservation | None, number: int) -> Actor:
    """A rollout worker: one of those that the run began with in its reserved bundle, one that came later where there is
    room."""
    rollout = config.rollout
    options = {"num_cpus": rollout.num_cpus, "num_gpus": rollout.num_gpus, "max_restarts": -1}
    place: dict[str, Any] = {"label_selector": dict(rollout.node_labels)}
    if reservation and number < rollout.workers:
        place = reservation.place(1 + number)
    return (
        ray.remote(RolloutWorker)
        .options(name=f"{config.run.name}/rollout-{number}", **options, **place)
        .remote(partial(build.policy, config), config.run.threads)
    )


def _stream(config: RunConfig, rows: dict[str, int], steps: range, rollouts: RolloutPool) -> TargetStream:
    return TargetStream(
        curriculum=curriculum(config, rows),
        encoder=deployment.client(config, ENCODER),
        rollouts=rollouts,
        expert_rollouts=_expert_rollouts(config),
        with_clean=build.with_clean(config),
        steps=steps,
        lag=config.learner.lag,
    )


def curriculum(config: RunConfig, rows: dict[str, int]) -> Curriculum:
    """What a run teaches; built where it is used, once the services are deployed."""
    return Curriculum(
        plan=build.plan(config, rows),
        buckets=build.buckets(config),
        experts=deployment.expert_clients(config),
        teaching=build.teaching(config),
    )


def _expert_rollouts(config: RunConfig) -> ExpertRollouts | None:
    solver = build.solver(config)
    if solver is None or not isinstance(config.state, ExpertRollout):
        return None
    return ExpertRollouts(
        seed=config.run.seed, grid=build.grid(config), solver=solver, both_branches=build.objective(config).both_branches
    )


def _examiner(config: RunConfig, rollouts: RolloutPool) -> Examiner:
    encoder = deployment.client(config, ENCODER)
    return Examiner(build.evaluation(config), build.family(config), build.exam_grid(config), encoder, rollouts)


async def _train_and_evaluate(config: RunConfig, learner: Actor, start: int, display: Display) -> Outcome | None:
    exam = build.evaluation(config)
    results: dict[str, ExamResult] = {}
    if config.eval.every:
        display.say("evaluating base, experts and the student's start")
        results = await _evaluate_before(config, learner)
        if start == 0:
            await learner.record_skills.remote(0, results[BEFORE].skills, results[BEFORE].picture)

    def report(student: Weights, result: ExamResult) -> None:
        answers = {**results, AFTER: result}
        report_so_far(config, Outcome(steps=student.policy_version, weights=student, exam=exam, results=answers))

    await _train(learner, display, report)
    progress = await learner.progress.remote()
    if progress.step < config.run.steps:
        await learner.close.remote()
        return None
    return await _evaluate_after(config, learner, exam, results, display)


async def _evaluate_before(config: RunConfig, learner: Actor) -> dict[str, ExamResult]:
    """The exams of base, experts and the student's start, in flight together."""
    tensors = build.start_tensors(config)
    takers = {BASE: learner.examine_student.remote(None)}
    takers |= {name: _examine_expert(config, learner, name) for name in config.experts}
    if tensors is not None:
        takers[BEFORE] = learner.examine_student.remote(Weights.of(0, tensors))
    results = dict(zip(takers, await asyncio.gather(*takers.values()), strict=True))
    return {BEFORE: results[BASE]} | results


def _examine_expert(config: RunConfig, learner: Actor, name: str):
    return learner.examine_expert.remote(partial(deployment.expert_client, config, name))


async def _evaluate_after(
    config: RunConfig, learner: Actor, exam: Evaluation, results: dict[str, ExamResult], display: Display
) -> Outcome:
    """The exams of the student and of experts that came while it learned."""
    progress = await learner.progress.remote()
    weights, averaged = await learner.student.remote()
    if config.eval.every:
        display.say("evaluating the student")
        final = recorded_config(config.folder)
        results |= {name: await _examine_expert(final, learner, name) for name in final.experts if name not in results}
        results[AFTER] = await learner.examine_student.remote(averaged)
        await learner.record_skills.remote(progress.step, results[AFTER].skills, results[AFTER].picture)
    await learner.close.remote()
    return Outcome(steps=progress.step, weights=weights, exam=exam, results=results)


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
