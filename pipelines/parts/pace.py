"""How fast a run can be, from what its parts take: what limits it, and how many processes keep the learner busy."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from pipelines.config.gpus import gpu_flops
from pipelines.config.run import ENCODER, RunConfig
from pipelines.parts.needs import Needs

LEARNER, ROLLOUT, CORES, LAG = "learner", "rollout", "the CPU's cores", "learner.lag"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSeconds:
    """What one process alone would take for its part of an optimizer step.

    Attributes:
        encode: of the conditions of all samples.
        rollout: of all rollouts.
        experts: service -> for the answers that it gives.
        learner: for forward, backward and optimizer.
        beside: CPU seconds of all processes together for what is no part: calls, copies, publication.
    """

    encode: float
    rollout: float
    experts: Mapping[str, float]
    learner: float
    beside: float = 0.0

    @staticmethod
    def median(taken: Sequence["StepSeconds"]) -> "StepSeconds":
        """Part by part, of several steps."""
        return StepSeconds(
            encode=statistics.median(one.encode for one in taken),
            rollout=statistics.median(one.rollout for one in taken),
            experts={name: statistics.median(one.experts[name] for one in taken) for name in taken[0].experts},
            learner=statistics.median(one.learner for one in taken),
            beside=statistics.median(one.beside for one in taken),
        )

    @staticmethod
    def estimated(config: RunConfig, needs: Needs, share: float) -> "StepSeconds":
        """On the learner's GPU, from the floating point operations of each part.

        Args:
            config: of the run.
            needs: of the same run.
            share: of the GPU's peak that is reached, in (0, 1].

        Raises:
            ValueError: if the peak of this GPU isn't known.
        """
        samples, rate = config.learner.batch_size, share * gpu_flops(config.learner.gpu, config.model.dtype)
        work = needs.work
        return StepSeconds(
            encode=0.0,  # rows are encoded once and kept
            rollout=samples * needs.rollout_flops / rate,
            experts={name: samples * forwards * needs.expert_flops / rate for name, forwards in work.expert_forwards.items()},
            learner=samples * work.queries * needs.learner_flops / rate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a run is when nothing is lost.

    Attributes:
        limits: what stands in the way -> seconds that it takes for a step; the largest decides.
        wanted: kind of process -> how many keep the learner busy.
        given: kind of process -> how many the configuration has.
        samples: of a step.
        steps: of the run.
        gpus: of the run.
    """

    limits: Mapping[str, float]
    wanted: Mapping[str, int]
    given: Mapping[str, int]
    samples: int
    steps: int
    gpus: float

    @staticmethod
    def of(config: RunConfig, seconds: StepSeconds, cores: float) -> "Pace":
        """Of a run whose parts take these seconds; `cores` is what all its processes without a GPU compute on."""
        given = {ROLLOUT: config.rollout.workers, **{name: config.services[name].replicas for name in seconds.experts}}
        given[ENCODER] = config.encoder.replicas
        alone = {ROLLOUT: seconds.rollout, **seconds.experts, ENCODER: seconds.encode}
        learner = seconds.learner / config.learner.ranks
        limits = {LEARNER: learner, **{name: value / given[name] for name, value in alone.items()}}
        # A step's rollouts begin with the version that the step `lag` before it gave, so that many steps share one way through.
        slowest = max((limits[name] for name in seconds.experts), default=0.0)
        limits[LAG] = (limits[ROLLOUT] + slowest + learner) / (config.learner.lag + 1)
        limits[CORES] = _on_the_cpu(config, seconds) / cores
        wanted = {name: max(1, ceil(value / learner)) for name, value in alone.items()}
        demanded = [config.rollout.workers * config.rollout.ranks * config.rollout.num_gpus]
        demanded += [section.replicas * section.num_gpus * getattr(section, "ranks", 1) for section in config.services.values()]
        gpus = config.learner.ranks * config.learner.num_gpus + sum(demanded)
        return Pace(
            limits=limits, wanted=wanted, given=given, samples=config.learner.batch_size, steps=config.run.steps, gpus=gpus
        )

    @property
    def limit(self) -> str:
        """What decides."""
        return max(self.limits, key=lambda name: self.limits[name])

    @property
    def step_seconds(self) -> float:
        """Of an optimizer step."""
        return self.limits[self.limit]

    @property
    def samples_per_second(self) -> float:
        """Of the whole run."""
        return self.samples / self.step_seconds

    @property
    def hours(self) -> float:
        """Of all steps, without start and exams."""
        return self.steps * self.step_seconds / 3600

    def busy(self, who: str) -> float:
        """The share of its time in which each process of a kind computes."""
        return self.limits[who] / self.step_seconds


def _on_the_cpu(config: RunConfig, seconds: StepSeconds) -> float:
    """CPU seconds of a step: of the parts whose processes have no GPU, and of what is no part."""
    parts = {name: (seconds.experts[name], config.services[name].num_gpus) for name in seconds.experts}
    parts[ENCODER] = seconds.encode, config.encoder.num_gpus
    parts[ROLLOUT] = seconds.rollout, config.rollout.num_gpus
    parts[LEARNER] = seconds.learner, config.learner.num_gpus
    return seconds.beside + sum(value for value, num_gpus in parts.values() if not num_gpus)
