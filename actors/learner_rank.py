"""One process of the learner: a student that it updates together with the other ranks, or alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from torch import Tensor

from actors.example_reference import ExampleReference, fetched
from actors.rank_metrics import RankMetrics
from actors.rollout_worker import PublishedWeights
from fields import checkpoint
from fields.carriers import Weights
from fields.distiller import Distiller
from fields.memory.cost import Pass
from fields.numerics import Numerics, device_name
from fields.ranks.process_group import ProcessGroup
from fields.ranks.ranks import Ranks
from fields.ranks.share import Learned, Share


class LearnerRank:
    """Holds a student. What several ranks compute together they are all asked for, in the same order.

    Args:
        build_distiller: the student at its start, on this process's device, for one of these ranks.
        ranks: this rank and how many there are.
        numerics: how it computes; the same in every process of a run.
        run: name of the run, for the metrics.
    """

    def __init__(self, build_distiller: Callable[[Ranks], Distiller], ranks: Ranks, numerics: Numerics, run: str):
        numerics.settle()
        self._metrics = RankMetrics(run, ranks.rank)
        self._build = build_distiller
        self._ranks = ranks
        self._loaded: Distiller | None = None

    @property
    def _distiller(self) -> Distiller:
        assert self._loaded is not None, "a rank is loaded before it is asked"
        return self._loaded

    def device(self) -> str:
        """What the student learns on: kind and model."""
        return device_name(self._distiller.device)

    def listen(self) -> tuple[str, int]:
        """Wait for the other ranks, as rank 0; host and port."""
        assert isinstance(self._ranks, ProcessGroup)
        host = ray.util.get_node_ip_address()
        return host, self._ranks.listen(host)

    def connect(self, host: str, port: int) -> None:
        """Meet the other ranks where rank 0 listens; raises `RankMissing`."""
        assert isinstance(self._ranks, ProcessGroup)
        self._ranks.connect(host, port)

    def load(self) -> None:
        """Load the student, waiting for nobody."""
        self._loaded = self._build(self._ranks)

    def begin(self) -> None:
        """Begin as the other ranks do, once all have loaded; raises `RankMissing`."""
        self._distiller.begin()

    def restore(self, path: Path) -> dict[int, Weights]:
        """Continue from a checkpoint; the versions that coming steps roll out with, from rank 0."""
        saved = checkpoint.restore(path, self._distiller)
        return {} if self._ranks.rank else dict(saved.published)

    def rehearse(self, what: Pass) -> None:
        """Compute the largest micro-batch for nothing; raises `DoesNotFit`."""
        self._distiller.rehearse(what)

    def update(self, share: Share, examples: Sequence[ExampleReference]) -> tuple[list[Learned], float]:
        """This rank's part of an optimizer step, and the norm of the step's gradient; raises as `Distiller.learn` does."""
        began, waited = time.perf_counter(), self._ranks.waited_s
        learned = self._distiller.learn(share, fetched(examples))
        self._metrics.record(self._distiller.updates, time.perf_counter() - began, self._ranks.waited_s - waited)
        return learned

    def weights(self, version: int) -> Weights:
        """The student's trainable tensors, from rank 0."""
        return self._distiller.weights(version)

    def averaged_weights(self, version: int) -> Weights:
        """Their moving average, from rank 0."""
        return self._distiller.averaged_weights(version)

    def velocity(self, example: ExampleReference) -> Tensor:
        """The student's velocity at the states of the example's query, on the CPU."""
        return self._distiller.velocity(example.fetch_query())

    def save(self, folder: Path, step: int, published: Mapping[int, PublishedWeights], recipe: Mapping[str, Any]) -> None:
        """Write a checkpoint; where ranks share the student, each its shards, otherwise rank 0 alone."""
        versions = {} if self._ranks.rank else {version: ray.get(own.reference) for version, own in published.items()}
        checkpoint.save(folder, step, self._distiller, versions, recipe)
