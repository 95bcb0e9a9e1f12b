"""The learner: pulls routed targets, updates the student, publishes its weights.

    TargetStream --examples(step)--> RankGroup.update --version step + 1--> TargetStream.publish
                                          |
                                          +--> Journal (a row per step), checkpoints, evaluation

The rollout workers are the learner's own actors: they come and go by `scale_rollout`, and end with it. So are its ranks,
if there are several; the only one computes in this process. When a rank is lost, all are started anew, and the run continues
from its newest checkpoint; services and rollout workers stay.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from actors.checkpoints import Checkpoints
from actors.curriculum import Change
from actors.examiner import Examiner
from actors.example_reference import ExampleReference
from actors.journal import Journal
from actors.learner_metrics import LearnerMetrics
from actors.learner_parts import LearnerParts
from actors.learning_student import LearningStudent
from actors.progress import Progress
from actors.rank_group import RanksLost
from actors.rollout_worker import PublishedWeights
from actors.step_times import StepTimes
from actors.storage import once_writable
from actors.stream import TargetStream
from actors.waits import Waits
from fields import checkpoint
from fields.carriers import Weights
from fields.evaluation.base import ExamResult, Skills
from fields.update import Update
from services.expert_access import ExpertAccess
from services.expert_client import ExpertClient

A = TypeVar("A")

_log = logging.getLogger(__name__)
_MOST_RECOVERIES = 3  # to one checkpoint


class Learner:
    """Owns the student: in ranks that hold it, of which there may be one.

    Args:
        parts: what it is made of; each is built in this process.
        folder: of the run.
        start: the first step to do.
        resume: a checkpoint to continue from.
    """

    def __init__(self, parts: LearnerParts, folder: Path, start: int, resume: Path | None):
        parts.numerics.settle()
        self._parts = parts
        self._rollouts = parts.rollouts()  # they load while the ranks do
        self._sizing = parts.sizing(self._rollouts)
        self._schedule = parts.schedule(start)
        self._student = LearningStudent(parts.ranks, self._schedule.lag)
        self._resume = resume
        self._stream: TargetStream | None = None
        self._folder, self._recipe, self._largest = folder, parts.recipe, parts.largest
        self._recoveries: list[int] = []  # the steps that were returned to
        self._journal = Journal(folder, start, parts.loggers)
        self._checkpoints = Checkpoints(folder, self._schedule.keeping, parts.mirror(), parts.run, self._warn, self._written)
        self._metrics, self._waits = LearnerMetrics(parts.run), Waits()
        self._stopping = self._ended = False
        self._progress = Progress(step=start)
        self._example: ExampleReference | None = None  # the first of the last step
        self._exam: tuple[Weights, ExamResult] | None = None
        self._trained: tuple[Weights, Weights] | None = None

    async def train(self) -> None:
        """Every step from the schedule's start to its end, or to the first one after `stop`; lost ranks are replaced.

        Raises:
            RanksLost: if ranks are lost again and again, with no checkpoint in between.
            Exception: what a service, a worker or the update raised; the last checkpoint stays as it was.
        """
        await self._student.load(self._resume)
        self._student.start = None  # its exam is before
        path, step, lost = self._resume, self._schedule.start, ""
        self._stream = self._parts.stream(self._rollouts, range(step, self._schedule.steps))
        while True:
            try:
                if lost:
                    self._stream = await self._recover(path, step, self._stream)
                await self._train(step, self._stream)
                self._trained = await self._student.read(self._progress.step)
                return
            except RanksLost as error:
                if self._ended:
                    raise
                lost = str(error)  # and not the error: its traceback keeps the old student in memory
            own = await self._checkpoints.newest(self._schedule.start)
            path, step = (own, checkpoint.steps_of(own)) if own else (self._resume, self._schedule.start)
            self._recoveries.append(step)
            if self._recoveries.count(step) > _MOST_RECOVERIES:
                raise RanksLost(f"ranks were lost {_MOST_RECOVERIES} times after step {step}: {lost}")
            self._warn(f"{lost}; all ranks are started anew, and the run continues from step {step}")

    async def _recover(self, path: Path | None, step: int, stream: TargetStream) -> TargetStream:
        """Start the ranks anew, and return to a checkpoint and its step; the stream from there."""
        stream.cancel()
        self._stream = None  # which cannot change while the record is written anew
        self._metrics.recovered()
        self._example = None
        await self._student.restart(path)
        self._journal.close()
        self._journal = await self._written(lambda: asyncio.to_thread(Journal, self._folder, step, self._parts.loggers))
        self._progress = replace(self._progress, step=step, seconds=0.0, samples=0)
        return stream.again(range(step, self._schedule.steps))

    async def _train(self, start: int, stream: TargetStream) -> None:
        schedule = self._schedule
        for version, publication in sorted(self._student.published.items()):
            stream.publish(version, publication)
        if start and schedule.evaluates_after(start) and not self._journal.has_skills(start):
            await self._examine(start)  # its checkpoint was saved, and then the run was interrupted
        began, save = time.monotonic(), 0.0
        for step in range(start, schedule.steps):
            asked = time.monotonic()
            examples = await stream.examples(step)
            came = time.monotonic()
            with self._waits.on(f"step {step}: the update in the learner's ranks"):
                update = await self._student.ranks.update(examples)
            done = time.monotonic()
            self._example = examples[0]
            if (publication := self._student.publish(step + 1)) is not None:
                stream.publish(step + 1, publication)
                self._metrics.publishing(publication)
            times = StepTimes(wait=came - asked, update=done - came, save=save)
            await self._record(step, examples, update, done - began, times)
            save = 0.0
            if schedule.saves_after(step + 1) or self._stopping:
                with self._waits.on(f"the checkpoint after step {step + 1}"):
                    await self._checkpoints.save(self._student, step + 1, self._recipe)
                save = time.monotonic() - done
            if self._stopping:
                return
            if schedule.evaluates_after(step + 1):
                examined = time.monotonic()
                await self._examine(step + 1)
                began += time.monotonic() - examined  # an exam is no training time

    async def _examine(self, step: int) -> None:
        weights, averaged = await self._student.read(step)
        result = await self._examiner.student(averaged)
        await self.record_skills(step, result.skills, result.picture)
        self._exam = weights, result
        self._progress = replace(self._progress, examined=step)

    async def _record(
        self, step: int, examples: list[ExampleReference], update: Update, seconds: float, times: StepTimes
    ) -> None:
        version = self._schedule.lag.version(step)
        ids = list(dict.fromkeys(sample_id for example in examples for sample_id in example.outline.sample_ids))
        await self._written(lambda: asyncio.to_thread(self._journal.record, step, update, version, ids, seconds, times))
        self._sizing.after_step(times)
        self._progress = self._progress.after(step, update, step - version, len(ids), seconds)
        self._metrics.record(self._progress, update, times, self._stream.depth if self._stream else 0, len(ids))

    @cached_property
    def _examiner(self) -> Examiner:
        return self._parts.examiner(self._rollouts)

    async def ready(self) -> None:
        """Returns once the student and every rollout worker are loaded; before training alone."""
        await asyncio.gather(self._rollouts.ready(), self._student.load(self._resume))

    async def rehearse(self) -> None:
        """Compute the largest group once, forward and backward, for nothing; before training alone. Raises `DoesNotFit`."""
        await self._student.ranks.rehearse(self._largest)

    async def rehearse_rollouts(self) -> None:
        """Let every rollout worker do likewise with the student's start; before training alone. Raises `DoesNotFit`."""
        assert self._student.start is not None, "training has begun"
        await self._rollouts.rehearse(self._largest, PublishedWeights.put(self._student.start))

    async def rehearse_expert(self, build_client: Callable[[], ExpertClient]) -> None:
        """Let an application of experts compute its largest call once; raises `DoesNotFit`."""
        await build_client().rehearse(self._largest)

    async def device(self) -> str:
        """What the student learns on: kind and model."""
        return await self._student.ranks.device()

    async def examine_student(self, weights: Weights | None, guidance: float = 1.0) -> ExamResult:
        """The exam of a student with these weights, None is the bare base, by the rollout workers."""
        return await self._examiner.student(weights, guidance)

    async def examine_start(self) -> ExamResult:
        """The exam of the student at its start, also in a run that continues; before training alone."""
        assert self._student.start is not None, "training has begun"
        return await self._examiner.student(self._student.start)

    async def examine_expert(self, name: str, build_access: Callable[[], ExpertAccess]) -> ExamResult:
        """The exam of an expert, by its service."""
        return await self._examiner.expert(name, build_access())

    async def rollout_workers(self) -> int:
        """How many rollout workers there are."""
        return self._rollouts.size

    async def scale_rollout(self, workers: int, timeout_s: float) -> None:
        """Start or end rollout workers until there are so many; returns when they work, raises as the pool does."""
        await self._rollouts.resize(workers, timeout_s)

    async def end_actors(self) -> None:
        """End all rollout workers and ranks at once, and replace none any more; by themselves they go a little later."""
        self._ended = True
        self._rollouts.end()
        self._student.ranks.end()

    async def require_open(self, step: int) -> None:
        """Returns if `change` may begin at a step.

        Raises:
            ValueError: if its samples are asked for already; names the first step that can change.
        """
        self._open_stream(step)

    async def change(self, change: Change) -> None:
        """Teach otherwise from a step on, and record it: the run repeats it where it continues from an earlier checkpoint.

        Raises:
            ValueError: as `require_open` does, if the run has changed since, or if the new rows cannot be read here.
        """
        stream = self._open_stream(change.step)
        if self._recipe != change.replaced:
            raise ValueError(f"step {change.step} cannot change: the run was changed meanwhile; try again")
        try:
            curriculum = change.build_curriculum()
            self._journal.record_change(change.step, change.settings)
        except OSError as error:
            raise ValueError(f"on the learner's node: {error}") from error
        stream.change(curriculum)
        self._recipe = change.recipe

    def _open_stream(self, step: int) -> TargetStream:
        if self._stream is None:
            raise ValueError(f"step {step} cannot change: the run does not train yet")
        self._stream.require_open(step)
        return self._stream

    async def record_skills(self, step: int, skills: Skills, picture: np.ndarray) -> None:
        """Write an exam after `step` steps into the journal, with how far the student that rolls out is from this one at the
        first states of the step before; a run that has just begun or continued has none yet, nor one whose ranks have ended."""
        apart = None
        if self._example is not None:
            try:
                apart = await self._student.apart(step, self._example, self._examiner)
            except RanksLost as error:
                if self._trained is None:
                    raise
                self._warn(f"the trained student is not compared with the one that rolls out: {error}")
        await self._written(lambda: asyncio.to_thread(self._journal.record_skills, step, skills, picture, apart))

    async def _written(self, write: Callable[[], Awaitable[A]]) -> A:
        """What a write to the run's folder gives, once the storage takes it; training waits, unless it is asked to stop."""
        return await once_writable(write, self._warn, lambda: self._stopping)

    def _warn(self, warning: str) -> None:
        _log.warning(warning)
        self._metrics.warned()
        self._progress = replace(self._progress, warnings=(*self._progress.warnings, warning))

    async def stop(self) -> None:
        """End the training after the step that goes on now, with a checkpoint."""
        self._stopping = True

    async def close(self) -> None:
        """Everything recorded is on disk, or with the trackers, and in the mirror; nothing is recorded after it."""
        self._journal.close()
        await self._checkpoints.finish()

    async def progress(self) -> Progress:
        """Where the run is."""
        return self._progress

    async def waits(self) -> list[str]:
        """What is waited for, and since when: here, in the stream, and of the rollout workers."""
        return [*self._waits.lines(), *(self._stream.waits.lines() if self._stream else ()), *self._rollouts.waits.lines()]

    async def exam(self) -> tuple[Weights, ExamResult] | None:
        """The student of the last exam that was taken while training, and what it answered."""
        return self._exam

    async def student(self) -> tuple[Weights, Weights]:
        """The trained student's tensors, and their moving average; they outlive the ranks."""
        assert self._trained is not None, "training has not ended"
        return self._trained
