"""The student that learns: in its ranks, with those of its versions that coming steps roll out with."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actors.examiner import Examiner
from actors.example_reference import ExampleReference
from actors.rank_group import RankGroup
from actors.rollout_worker import PublishedWeights
from fields.carriers import Weights
from fields.method.lag import Lag


class LearningStudent:
    """Ranks that are started anew when some are lost. Every method raises `RanksLost` if a rank has ended or hangs.

    Args:
        start_ranks: starts the ranks.
        lag: which versions are published, and how long they are kept.

    Attributes:
        ranks: that hold the student; they compute in this process, if there is one.
        start: the weights before the first step, until `restart`.
        published: version -> what rollouts use.
    """

    def __init__(self, start_ranks: Callable[[], RankGroup], lag: Lag):
        self._start_ranks = start_ranks
        self._lag = lag
        self.ranks = start_ranks()
        self.start: Weights | None = None
        self.published: dict[int, PublishedWeights] = {}

    async def load(self, path: Path | None) -> None:
        """Load the ranks, unless they are, and let them continue from a checkpoint."""
        if self.published:
            return
        await self.ranks.load()
        self.start = await self.ranks.weights(0)
        self.published = {0: PublishedWeights.put(self.start)}
        if path is not None:
            self.published = await self.ranks.restore(path)

    async def restart(self, path: Path | None) -> None:
        """End the ranks, start others, and return to a checkpoint, or to the start."""
        self.ranks.end()
        self.published = {}
        self.ranks = self._start_ranks()
        await self.load(path)
        self.start = None

    async def publish(self, version: int) -> PublishedWeights | None:
        """The student after so many steps, unless no step rolls out with it; what none needs any more is forgotten."""
        if self._lag.publishes(version):
            self.published[version] = await self.ranks.publish(version)
        self.published.pop(self._lag.version(version) - self._lag.published_every, None)
        return self.published.get(version)

    async def read(self, version: int) -> tuple[Weights, Weights]:
        """The trainable tensors after so many steps, and their moving average."""
        return await self.ranks.weights(version), await self.ranks.averaged_weights(version)

    async def apart(self, version: int, example: ExampleReference, examiner: Examiner) -> float:
        """How far the student that rolls out is from this one at the states of an example."""
        learned = await self.ranks.velocity(example)
        query = await asyncio.to_thread(example.fetch_query)
        published = self.published.get(version) or await self.ranks.publish(version)
        return await examiner.mismatch(query, published, learned)

    async def save(self, folder: Path, step: int, recipe: Mapping[str, Any]) -> None:
        """Write a checkpoint."""
        await self.ranks.save(folder, step, self.published, recipe)
