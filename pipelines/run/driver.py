"""The driver: leads the learner through a run, and starts it anew where its process ends or hangs."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from threading import Event
from typing import Any, NoReturn

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.rank_group import ENDED
from fields import checkpoint
from fields.carriers import Weights
from fields.evaluation.base import ExamResult
from pipelines.cluster.deployment import RunServices
from pipelines.cluster.reserve import Reservation
from pipelines.cluster.waiting import waiting_for
from pipelines.config.run import AFTER, BASE, BEFORE, RunConfig
from pipelines.config.sharing import summing_ranks
from pipelines.parts.check_files import checked_parts
from pipelines.parts.run_parts import RunParts
from pipelines.reports.run_report import report_so_far
from pipelines.run.failures import RunFailed
from pipelines.run.learner_process import end, remaining_actors, start_learner
from pipelines.run.origin import Origin
from pipelines.run.promise import device_warnings, rank_warnings
from pipelines.run.rehearsal import rehearse
from pipelines.run.standstill import Standstill, processes_here, screen
from pipelines.run.stopping import stop_requests
from pipelines.run_folder.changes import recorded_config
from pipelines.run_folder.outcome import Outcome
from pipelines.watch.progress import Display

_POLL_S = 0.5
_MOST_LOSSES = 3  # of the learner, after one checkpoint
_GONE_S = 120.0  # within which the actors of a learner that was ended are gone; they take seconds


class _LearnerHangs(Exception):
    """The learner's process lives, and does not answer."""


class Driver:
    """Leads the learner through a run: the exams before, the training, the exams after.

    A learner that is lost is started anew at the run's newest checkpoint, with its ranks and rollout workers. The services
    stay, and so do the results of exams that are taken already.

    Args:
        parts: of the run.
        origin: where it begins.
        display: what the user sees.
        reservation: what is held for the learner and its actors.
    """

    def __init__(self, parts: RunParts, origin: Origin, display: Display, reservation: Reservation):
        self._parts = parts
        self._origin = self._first = origin
        self._display = display
        self._reservation = reservation
        self._results: dict[str, ExamResult] = {}
        self._start_is_recorded = origin.step > 0
        self._losses: Counter[int] = Counter()  # by the step that was returned to
        self._warned = 0  # how many of the learner's warnings are shown
        self._stop = Event()  # asked for, also of a learner that was lost since
        self._learner = start_learner(parts, origin, reservation)

    @property
    def _config(self) -> RunConfig:
        return self._parts.config

    def end(self) -> None:
        """End the learner and its actors, whatever they are doing."""
        end(self._learner)

    async def run(self) -> Outcome | None:
        """From the origin's step to the outcome; None for a run that was asked to stop.

        Raises:
            ConfigError: if a process has no memory for its largest group.
            RunFailed: if the learner is lost again and again, with no checkpoint in between.
            Exception: what the learner raised.
        """
        while True:
            try:
                return await self._train_and_evaluate()
            except _LearnerHangs as error:
                lost = str(error)
            except ENDED as error:
                if isinstance(error, RayTaskError):  # the learner raised it: an actor of its own was lost, for good
                    raise
                if isinstance(error, RayActorError) and error.actor_init_failed:
                    raise
                lost = "the learner's process ended"
            await self._start_anew(lost)

    async def _start_anew(self, lost: str) -> None:
        """End what is left of the learner, and start it again at the newest checkpoint of this session."""
        await asyncio.to_thread(self.end)
        await self._gone()
        folder = self._config.folder
        newest = await asyncio.to_thread(checkpoint.newest, folder / "checkpoints", self._first.step)
        step = checkpoint.steps_of(newest) if newest else self._first.step
        checkpoint.discard_after(folder / "checkpoints", step)
        self._losses[step] += 1
        if self._losses[step] > _MOST_LOSSES:
            raise RunFailed(
                f"{lost}, as it did {_MOST_LOSSES} times before after step {step}; the same command continues there"
            )
        self._display.say(f"warning: {lost}; it is started anew, and the run continues from step {step}")
        self._parts = await asyncio.to_thread(checked_parts, recorded_config(folder))
        self._origin = Origin.find(self._config, str(newest)) if newest else self._first
        self._warned = 0
        self._learner = start_learner(self._parts, self._origin, self._reservation)

    async def _gone(self) -> None:
        """Returns once the names of the ended learner and its actors are free."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _GONE_S
        while remaining := remaining_actors(self._config.run.name):
            if loop.time() > deadline:
                raise RunFailed(f"{', '.join(remaining)} did not end within {_GONE_S:.0f} s, and nobody can take their place")
            await asyncio.sleep(_POLL_S)

    async def _train_and_evaluate(self) -> Outcome | None:
        watch = asyncio.ensure_future(self._watch())
        work = asyncio.ensure_future(self._work())
        try:
            await asyncio.wait([watch, work], return_when=asyncio.FIRST_COMPLETED)
            return await (work if work.done() else watch)
        finally:
            watch.cancel()
            work.cancel()
            await asyncio.gather(watch, work, return_exceptions=True)

    async def _watch(self) -> NoReturn:
        """Ask the learner again and again.

        Raises:
            _LearnerHangs: once the learner has answered, and then not for the watchdog's time.
        """
        limit_s = self._config.run.watchdog_s
        await self._learner.progress.remote()  # its process has a place, and has started
        while True:
            alive = asyncio.wrap_future(self._learner.progress.remote().future())
            try:
                await asyncio.wait_for(alive, limit_s)
            except TimeoutError:
                raise _LearnerHangs(f"the learner has not answered for {limit_s:g} s") from None
            await asyncio.sleep(_POLL_S)

    async def _work(self) -> Outcome | None:
        learner, config = self._learner, self._config
        with waiting_for("the learner and the rollout workers to load", self._display.say):
            await learner.ready.remote()
        if not self._losses:
            await self._say_what_may_differ()
        await rehearse(self._parts, learner)
        if config.eval.every and not self._results:
            self._display.say("evaluating base, experts and the student's start")
            self._results = await self._examine_before()
        if self._results and not self._start_is_recorded:
            await learner.record_skills.remote(0, self._results[BEFORE].skills, self._results[BEFORE].picture)
            self._start_is_recorded = True
        await self._train()
        progress = await learner.progress.remote()
        outcome = await self._finish() if progress.step == config.run.steps else None
        await learner.close.remote()
        return outcome

    async def _say_what_may_differ(self) -> None:
        """From other runs, and from an earlier session of this one."""
        devices = await asyncio.to_thread(RunServices(self._parts).devices)
        for line in device_warnings(await self._learner.device.remote(), devices, self._origin):
            self._display.say(line)
        for line in rank_warnings(summing_ranks(self._config), self._origin):
            self._display.say(line)

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
        return self._learner.examine_expert.remote(name, partial(RunServices(RunParts(config)).expert_access, name))

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
        return Outcome(steps=progress.step, weights=weights, exam=self._parts.evaluation, results=self._results)

    async def _train(self) -> None:
        """Show the progress until training ends, and report each exam that is taken meanwhile."""
        learner, display = self._learner, self._display
        reported, standstill = None, Standstill(self._config.run.watchdog_s)
        if self._stop.is_set():  # asked of a learner that was lost since
            await learner.stop.remote()
        training = asyncio.ensure_future(asyncio.wrap_future(learner.train.remote().future()))
        try:
            with stop_requests(self._stop):
                while not training.done():
                    await asyncio.wait([training], timeout=_POLL_S)
                    if self._stop.is_set():
                        await learner.stop.remote()
                    progress = await learner.progress.remote()
                    self._warn(progress.warnings)
                    if (seconds := standstill.seconds(progress.step)) is not None:
                        await self._say_who_waits(progress.step, seconds)
                    if progress.update is not None:
                        display.update(progress.step, progress.update, progress.samples, progress.seconds, progress.staleness)
                    if progress.examined != reported:
                        reported = progress.examined
                        self._report(*await learner.exam.remote())
            await training
        finally:
            training.cancel()
            await asyncio.gather(training, return_exceptions=True)

    async def _say_who_waits(self, step: int, seconds: float) -> None:
        waits = await self._learner.waits.remote()
        names = RunServices(self._parts).names
        processes = await asyncio.to_thread(processes_here, self._config.run.name, names)
        self._display.say(await asyncio.to_thread(screen, step, seconds, waits, processes))

    def _warn(self, warnings: Sequence[str]) -> None:
        """Show those that are new."""
        for warning in warnings[self._warned :]:
            self._display.say(f"warning: {warning}")
        self._warned = len(warnings)

    def _report(self, student: Weights, result: ExamResult) -> None:
        answers = {**self._results, AFTER: result}
        exam = self._parts.evaluation
        outcome = Outcome(steps=student.policy_version, weights=student, exam=exam, results=answers)
        try:
            report_so_far(self._config, outcome)
        except OSError as error:
            self._display.say(f"warning: no report after step {outcome.steps}: {error}")  # the next one shows its exam, too
