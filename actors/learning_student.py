"""The student that learns: in its ranks, with those of its versions that coming steps roll out with."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from actors.examiner import Examiner
from actors.example_reference import ExampleReference
from actors.rank_group import RankGroup
from actors.rollout_worker import Publication, PublishedWeights
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
        published: version -> what rollouts use, once it is hashed and in the object store.
    """

    def __init__(self, start_ranks: Callable[[], RankGroup], lag: Lag):
        self._start_ranks = start_ranks
        self._lag = lag
        self.ranks = start_ranks()
        self.start: Weights | None = None
        self.published: dict[int, Publication] = {}

    async def load(self, path: Path | None) -> None:
        """Load the ranks, unless they are, and let them continue from a checkpoint."""
        if self.published:
            return
        await self.ranks.load()
        self.start = await self.ranks.weights(0)
        versions = {0: self.start} if path is None else await self.ranks.restore(path)
        self.published = {version: _publication(weights) for version, weights in versions.items()}

    async def restart(self, path: Path | None) -> None:
        """End the ranks, start others, and return to a checkpoint, or to the start."""
        self.ranks.end()
        for publication in self.published.values():
            publication.cancel()
        self.published = {}
        self.ranks = self._start_ranks()
        await self.load(path)
        self.start = None

    def publish(self, version: int) -> "Publication | None":
        """Begin to publish the student after so many steps, unless no step rolls out with it; what none needs any more is
        forgotten. Later updates need not wait for it: it is copied before they begin, and hashed and stored beside them."""
        if self._lag.publishes(version):
            self.published[version] = _publication(self.ranks.weights(version))
        self.published.pop(self._lag.version(version) - self._lag.published_every, None)
        return self.published.get(version)

    async def read(self, version: int) -> tuple[Weights, Weights]:
        """The trainable tensors after so many steps, and their moving average."""
        return await self.ranks.weights(version), await self.ranks.averaged_weights(version)

    async def apart(self, version: int, example: ExampleReference, examiner: Examiner) -> float:
        """How far the student that rolls out is from this one at the states of an example."""
        learned = await self.ranks.velocity(example)
        query = await asyncio.to_thread(example.fetch_query)
        published = await (self.published.get(version) or _publication(self.ranks.weights(version)))
        return await examiner.mismatch(query, published, learned)

    async def save(self, folder: Path, step: int, recipe: Mapping[str, Any]) -> None:
        """Write a checkpoint."""
        published = {version: await publication for version, publication in self.published.items()}
        await self.ranks.save(folder, step, published, recipe)


def _publication(weights: Weights | Awaitable[Weights]) -> Publication:
    """Begin to place weights in the object store, once they have come; this process owns them, so they outlive the ranks."""

    async def published() -> PublishedWeights:
        return await asyncio.to_thread(PublishedWeights.put, weights if isinstance(weights, Weights) else await weights)

    return asyncio.ensure_future(published())
