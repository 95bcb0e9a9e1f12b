"""What the learner shows on Ray's metrics port."""

import asyncio
import time
from dataclasses import asdict
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from actors.progress import Progress
from actors.step_times import StepTimes
from fields.update import Update
from services.process_metrics import ProcessMetrics

_PUBLICATION_BOUNDARIES_S = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]


class LearnerMetrics:
    """The learner's `field_*` metrics, tagged with the run and, where it applies, the route."""

    def __init__(self, run: str):
        self._tags = {"run": run}
        self._loss = Gauge("field_loss", "Velocity MSE of the last step.", ("run", "route"))
        self._target_norm = Gauge("field_target_norm", "Root mean square of the experts' velocities.", ("run", "route"))
        self._step = Gauge("field_step", "Optimizer steps done.", ("run",))
        self._staleness = Gauge("field_staleness", "Versions that rollouts are behind the learner.", ("run",))
        self._depth = Gauge("field_stream_depth", "Future steps in flight or ready.", ("run",))
        self._samples = Counter("field_samples", "Samples trained on.", ("run",))
        self._seconds = Counter(
            "field_step_seconds",
            "Seconds of the learner by what they went to: waiting for targets, the update, checkpoints.",
            ("run", "part"),
        )
        self._publication = Histogram(
            "field_publication_seconds",
            "From the updated student to its weights in the object store.",
            boundaries=_PUBLICATION_BOUNDARIES_S,
            tag_keys=("run",),
        )
        self._recoveries = Counter("field_learner_recoveries", "Times that lost ranks were started anew.", ("run",))
        self._warnings = Counter(
            "field_learner_warnings",
            "What the learner warned of: lost ranks, storage that is away, copies that failed.",
            ("run",),
        )
        self._process = ProcessMetrics()

    def publishing(self, publication: "asyncio.Future[Any]") -> None:
        """A version is published from now on."""
        began = time.monotonic()
        publication.add_done_callback(lambda _: self._publication.observe(time.monotonic() - began, self._tags))

    def recovered(self) -> None:
        """Lost ranks are started anew."""
        self._recoveries.inc(1, self._tags)

    def warned(self) -> None:
        """The user was warned."""
        self._warnings.inc(1, self._tags)

    def record(self, progress: Progress, update: Update, times: StepTimes, depth: int, samples: int) -> None:
        """Set everything after a step."""
        for route, loss in update.route_loss.items():
            self._loss.set(loss, {**self._tags, "route": route})
            self._target_norm.set(update.route_target_norm[route], {**self._tags, "route": route})
        self._step.set(progress.step, self._tags)
        self._staleness.set(progress.staleness, self._tags)
        self._depth.set(depth, self._tags)
        self._samples.inc(samples, self._tags)
        for part, seconds in asdict(times).items():
            self._seconds.inc(max(seconds, 1e-9), {**self._tags, "part": part})  # Ray refuses an increment of 0
        self._process.record()
