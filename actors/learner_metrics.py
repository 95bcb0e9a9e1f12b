"""What the learner shows on Ray's metrics port."""

from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge

from fields.distiller import Update

if TYPE_CHECKING:
    from actors.learner import Progress


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
        self._wait = Counter("field_learner_wait_seconds", "Seconds that the learner waited for targets.", ("run",))

    def record(self, progress: "Progress", update: Update, waited: float, depth: int, samples: int) -> None:
        """Set everything after a step."""
        for route, loss in update.route_loss.items():
            self._loss.set(loss, {**self._tags, "route": route})
            self._target_norm.set(update.route_target_norm[route], {**self._tags, "route": route})
        self._step.set(progress.step, self._tags)
        self._staleness.set(progress.staleness, self._tags)
        self._depth.set(depth, self._tags)
        self._samples.inc(samples, self._tags)
        self._wait.inc(max(waited, 1e-9), self._tags)  # Ray refuses an increment of 0
