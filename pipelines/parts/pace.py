"""How fast a run can be, from what its parts take: what limits it, and how many processes keep the learner busy."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from pipelines.config.gpus import gpu_flops
from pipelines.config.run import ENCODER, RunConfig
from pipelines.parts.footprint import who_of
from pipelines.parts.needs import Needs

LEARNER, ROLLOUT = "learner", "rollout"
CORES, SHARED_GPUS, LAG = "the CPU's cores", "shared GPUs", "learner.lag"


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
        rate, flops = share * gpu_flops(config.learner.gpu, config.model.dtype), step_flops(config, needs)
        return StepSeconds(
            encode=0.0,  # rows are encoded once and kept
            rollout=flops[ROLLOUT] / rate,
            experts={name: flops[who_of(name)] / rate for name in needs.work.expert_forwards},
            learner=flops[LEARNER] / rate,
        )


def step_flops(config: RunConfig, needs: Needs) -> dict[str, float]:
    """Kind of process -> the floating point operations of its networks for an optimizer step, of all processes together; the
    encoder's are not known. Operations that recomputation adds count, as the processor does them."""
    samples, work = config.learner.batch_size, needs.work
    return {
        LEARNER: samples * work.queries * needs.learner_flops,
        ROLLOUT: samples * needs.rollout_flops,
        **{who_of(name): samples * forwards * needs.expert_flops[name] for name, forwards in work.expert_forwards.items()},
    }


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
        reached: kind of process -> floating point operations per second of one while it computes; empty of an estimate.
        gpu: that the learner is planned for.
        peak: of this GPU, in the same unit; None of a learner on a CPU, or of a GPU whose speed isn't known.
    """

    limits: Mapping[str, float]
    wanted: Mapping[str, int]
    given: Mapping[str, int]
    samples: int
    steps: int
    gpus: float
    reached: Mapping[str, float]
    gpu: str
    peak: float | None

    @staticmethod
    def of(config: RunConfig, seconds: StepSeconds, cores: float, flops: Mapping[str, float]) -> "Pace":
        """Of a run whose parts take these seconds for these operations; `cores` is what all its processes without a GPU compute
        on."""
        experts = {who_of(name): (taken, config.services[name].replicas) for name, taken in seconds.experts.items()}
        given = {ROLLOUT: config.rollout.workers, **{who: replicas for who, (_, replicas) in experts.items()}}
        given[ENCODER] = config.encoder.replicas
        alone = {ROLLOUT: seconds.rollout, **{who: taken for who, (taken, _) in experts.items()}, ENCODER: seconds.encode}
        learner = seconds.learner / config.learner.ranks
        limits = {LEARNER: learner, **{who: value / given[who] for who, value in alone.items()}}
        updates, *others = kinds = _kinds(config, seconds)
        on_cores = seconds.beside + sum(kind.seconds for kind in others if not kind.num_gpus)
        # A step's rollouts begin with the version that the step `lag` before it gave, so that many steps share one way through:
        # first all that a step's targets take, which has the cores to itself where nothing overlaps, and then the update.
        slowest = max((limits[who] for who in experts), default=0.0)
        limits[LAG] = (max(limits[ROLLOUT] + slowest, on_cores / cores) + learner) / (config.learner.lag + 1)
        limits[CORES] = (on_cores + (0 if updates.num_gpus else updates.seconds)) / cores
        together = [kind for kind in kinds if 0 < kind.num_gpus < 1]  # on GPUs that they share
        limits[SHARED_GPUS] = sum(kind.seconds for kind in together) / max(1, ceil(sum(kind.gpus for kind in together)))
        wanted = {name: max(1, ceil(value / learner)) for name, value in alone.items()}
        gpus = sum(kind.gpus for kind in kinds)
        each = {LEARNER: seconds.learner, **alone}
        return Pace(
            limits=limits,
            wanted=wanted,
            given=given,
            samples=config.learner.batch_size,
            steps=config.run.steps,
            gpus=gpus,
            reached={who: operations / each[who] for who, operations in flops.items() if each[who]},
            gpu=config.learner.gpu,
            peak=_peak(config),
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


def _peak(config: RunConfig) -> float | None:
    try:
        return gpu_flops(config.learner.gpu, config.model.dtype) if config.learner.num_gpus else None
    except ValueError:  # given by its memory alone
        return None


@dataclass(frozen=True, slots=True)
class _Kind:
    """Processes of one kind: what one alone would take for a step, the GPUs of each, and how many there are."""

    seconds: float
    num_gpus: float
    count: int

    @property
    def gpus(self) -> float:
        return self.num_gpus * self.count


def _kinds(config: RunConfig, seconds: StepSeconds) -> list[_Kind]:
    learner, rollout, encoder = config.learner, config.rollout, config.encoder
    experts = [(seconds.experts[name], config.services[name]) for name in seconds.experts]
    return [
        _Kind(seconds.learner, learner.num_gpus, learner.ranks),
        _Kind(seconds.rollout, rollout.num_gpus, rollout.workers * rollout.ranks),
        *(_Kind(taken, section.num_gpus, section.replicas * section.resources().ranks) for taken, section in experts),
        _Kind(seconds.encode, encoder.num_gpus, encoder.replicas),
    ]
