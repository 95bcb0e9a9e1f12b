"""A run on a Ray cluster: expert and encoder services, the learner with its rollout workers."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from actors.learner import Learner
from fields.carriers import Weights
from fields.evaluation.base import ExamResult
from pipelines.cluster.demands import RunDemands
from pipelines.cluster.deployment import RunServices
from pipelines.cluster.reserve import Reservation
from pipelines.cluster.waiting import waiting_for
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig
from pipelines.config.sharing import summing_ranks
from pipelines.parts.run_parts import RunParts
from pipelines.reports.run_report import report_so_far
from pipelines.run.learner_parts import Actor, ClusterLearnerParts
from pipelines.run.origin import Origin
from pipelines.run.promise import device_warnings, rank_warnings
from pipelines.run.rehearsal import rehearse
from pipelines.run.stopping import stop_requests
from pipelines.run_folder.changes import recorded_config
from pipelines.run_folder.outcome import Outcome
from pipelines.watch.progress import Display

_POLL_S = 0.5
_END_S = 10.0


def run_distributed(parts: RunParts, origin: Origin, display: Display, reservation: Reservation) -> Outcome | None:
    """Deploy, train, evaluate, and take down what was deployed; Ray is connected, and the run's folder has its configuration.

    Returns None for a run that was asked to stop (SIGTERM): it saved a checkpoint at its next step and ended.
    """
    config, services = parts.config, RunServices(parts)
    names = ", ".join(services.names)
    own = config.run.services is None
    display.say(
        f"starting the learner, {config.rollout.workers} rollout workers and the services {names}"
        if own
        else f"starting the learner and {config.rollout.workers} rollout workers; using the services {names}"
    )
    learner = start_learner(parts, origin, reservation)
    loading = learner.ready.remote()
    try:
        reservation.make_room()
        if own:
            with waiting_for(f"the services {', '.join(config.services)} to load", display.say):
                services.deploy()
        with waiting_for("the learner and the rollout workers to load", display.say):
            ray.get(loading)
        devices = device_warnings(ray.get(learner.device.remote()), services.devices(), origin)
        for line in (*devices, *rank_warnings(summing_ranks(config), origin)):
            display.say(line)
        return asyncio.run(_Driver(parts, learner, display).train_and_evaluate(origin.step))
    finally:
        end(learner)
        reservation.release()
        if own:
            RunServices(RunParts(recorded_config(config.folder))).delete()


def start_learner(parts: RunParts, origin: Origin, reservation: Reservation | None = None) -> Actor:
    """Start the learner, and by it its ranks and the rollout workers, in what is reserved for them; services are connected to
    when training begins."""
    config = parts.config
    demand = RunDemands.of(config).learner
    options = {"num_cpus": demand.num_cpus, "num_gpus": demand.num_gpus}
    place = reservation.place(0) if reservation else {}
    learner = ray.remote(Learner).options(name=f"{config.run.name}/learner", **options, **place)
    resume = origin.checkpoint.absolute() if origin.checkpoint else None
    return learner.remote(ClusterLearnerParts(parts, reservation), config.folder.absolute(), origin.step, resume)


def end(learner: Actor) -> None:
    """End the learner, its ranks and the rollout workers, whatever they are doing."""
    with suppress(RayError):  # it died, or its loop hangs: they go with it
        ray.get(learner.end_actors.remote(), timeout=_END_S)
    ray.kill(learner)


class _Driver:
    """Leads the learner through a run: the exams before, the training, the exams after."""

    def __init__(self, parts: RunParts, learner: Actor, display: Display):
        self._parts = parts
        self._config = parts.config
        self._exam = parts.evaluation
        self._learner = learner
        self._display = display
        self._results: dict[str, ExamResult] = {}
        self._warned = 0  # how many of the learner's warnings are shown

    async def train_and_evaluate(self, start: int) -> Outcome | None:
        """From step `start` to the outcome; None for a run that was asked to stop.

        Raises:
            ConfigError: if a process has no memory for its largest group.
        """
        learner = self._learner
        await rehearse(self._parts, learner)
        if self._config.eval.every:
            self._display.say("evaluating base, experts and the student's start")
            self._results = await self._examine_before()
            if start == 0:
                await learner.record_skills.remote(0, self._results[BEFORE].skills, self._results[BEFORE].picture)
        await self._train()
        progress = await learner.progress.remote()
        outcome = await self._finish() if progress.step == self._config.run.steps else None
        await learner.close.remote()
        return outcome

    async def _examine_before(self) -> dict[str, ExamResult]:
        """The exams of base, experts and the student's start, in flight together; who is the base doesn't take it again."""
        config = self._config
        bases = [name for name, expert in config.experts.items() if expert.is_base(config.model.quantization)]
        takers = {BASE: self._learner.examine_student.remote(None)}
        takers |= {name: self._examine_expert(config, name) for name in config.experts if name not in bases}
        if config.student.start.type != "base":
            takers[BEFORE] = self._learner.examine_start.remote()
        results: dict[str, ExamResult] = dict(zip(takers, await asyncio.gather(*takers.values()), strict=True))
        return dict.fromkeys([BEFORE, *bases], results[BASE]) | results

    def _examine_expert(self, config: RunConfig, name: str) -> ray.ObjectRef[Any]:
        return self._learner.examine_expert.remote(name, partial(RunServices(RunParts(config)).expert_client, name))

    async def _finish(self) -> Outcome:
        """The outcome, with the exams of the student and of experts that came while it learned."""
        progress = await self._learner.progress.remote()
        weights, averaged = await self._learner.student.remote()
        if self._config.eval.every:
            self._display.say("evaluating the student")
            final, results = recorded_config(self._config.folder), self._results
            results |= {name: await self._examine_expert(final, name) for name in final.experts if name not in results}
            results[AFTER] = await self._learner.examine_student.remote(averaged)
            await self._learner.record_skills.remote(progress.step, results[AFTER].skills, results[AFTER].picture)
            self._warn((await self._learner.progress.remote()).warnings)
        return Outcome(steps=progress.step, weights=weights, exam=self._exam, results=self._results)

    async def _train(self) -> None:
        """Show the progress until training ends, and report each exam that is taken meanwhile."""
        learner, display = self._learner, self._display
        reported: int | None = None
        training = asyncio.ensure_future(asyncio.wrap_future(learner.train.remote().future()))
        with stop_requests() as stop:
            while not training.done():
                await asyncio.wait([training], timeout=_POLL_S)
                if stop.is_set():
                    await learner.stop.remote()
                progress = await learner.progress.remote()
                self._warn(progress.warnings)
                if progress.update is not None:
                    display.update(progress.step, progress.update, progress.samples, progress.seconds, progress.staleness)
                if progress.examined != reported:
                    reported = progress.examined
                    self._report(*await learner.exam.remote())
        await training

    def _warn(self, warnings: Sequence[str]) -> None:
        """Show those that are new."""
        for warning in warnings[self._warned :]:
            self._display.say(f"warning: {warning}")
        self._warned = len(warnings)

    def _report(self, student: Weights, result: ExamResult) -> None:
        answers = {**self._results, AFTER: result}
        report_so_far(self._config, Outcome(steps=student.policy_version, weights=student, exam=self._exam, results=answers))
