"""The sample plan: sample `n` of a run is fully decided by `(seed, n)`.

There is no queue and no cursor that could be lost: a rollout that failed is repeated by its sample's id, and a resumed run
only needs to know its step. Every random number of a run comes from here, from a counter-based generator (Philox, Salmon et
al. 2011) with one stream per purpose: changing how queries are drawn leaves routes, rows and noise as they were, so variants
of a run can be compared sample by sample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby
from math import ceil

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fields.data.size import Size
from fields.method.query import QueryDistribution
from fields.method.routing import Routing
from fields.method.time_grid import Grid


class Stream(IntEnum):
    """What a random stream is for."""

    ROUTE = 0
    ROW = 1
    QUERY = 2
    NOISE = 3
    QUESTION = 4
    QUESTION_NOISE = 5
    INITIALISATION = 6
    TRANSITION = 7
    MERGE = 8
    FAULT = 9
    SCORE = 10


def generator(seed: int, stream: Stream, n: int, part: int = 0) -> np.random.Generator:
    """The random numbers of one purpose for one sample (or unit) `n`, or for one part of it, the same in every process."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, int(stream)], dtype=np.uint64), counter=[0, n, part, 0]))


def noise(
    seed: int, sample_ids: Sequence[int], shape: tuple[int, ...], stream: Stream = Stream.NOISE
) -> Float[Tensor, "batch ..."]:
    """Initial states x_T ~ N(0, I), float32 (batch, *shape), each row decided by its own id."""
    rows = [generator(seed, stream, n).standard_normal(shape, dtype=np.float32) for n in sample_ids]
    return torch.from_numpy(np.stack(rows))


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of the plan: its id, its route, its row in the route's bucket, the grid indices of its queries.

    `size` is that of its image or clip; None is the family's default size. `shares` are the experts that
    answer it with the factors of their velocities, where its row decides that; empty is as its route is answered.
    """

    id: int
    route: str
    row: int
    indices: tuple[int, ...]
    size: Size | None = None
    shares: tuple[tuple[str, float], ...] = ()

    @property
    def experts(self) -> tuple[str, ...]:
        """Who answers it, where its row decides that."""
        return tuple(expert for expert, _ in self.shares)


@dataclass(frozen=True, slots=True)
class Group:
    """Samples of one step with one route, size and set of experts: what is encoded together, and what an expert is asked."""

    step: int
    route: str
    samples: tuple[Sample, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(sample.id for sample in self.samples)

    @property
    def size(self) -> Size | None:
        return self.samples[0].size

    @property
    def indices(self) -> Int[Tensor, "batch queries"]:
        return torch.tensor([sample.indices for sample in self.samples])


Batch = tuple[Group, ...]
"""Groups of one step whose samples have one shape: what is rolled out and learned together. Without mixing, one group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePlan:
    """Which samples a run trains on, in which order.

    Attributes:
        seed: of the run, in [0, 2^64).
        batch_size: samples of an optimizer step; step s has the ids [s batch_size, (s + 1) batch_size).
        group_size: most samples of a group, and of a batch.
        routing: draws the routes.
        query: draws the query points.
        grid: the rollout's times, by size.
        rows: route -> number of rows in its bucket.
        size: (route, row) -> the size of that row's image or clip; without it every row has the family's default size.
        shares: (route, row, random numbers of the sample) -> the experts that answer that row, with the factors of their
            velocities, always in the same order; without it a row is answered as its route is.
        sources: route -> the source images of each of its rows: routes with as many of them share batches; without it every
            batch is of one route.
    """

    seed: int
    batch_size: int
    group_size: int
    routing: Routing
    query: QueryDistribution
    grid: Grid
    rows: Mapping[str, int]
    size: Callable[[str, int], Size | None] = lambda route, row: None
    shares: Callable[[str, int, np.random.Generator], Mapping[str, float]] = lambda route, row, rng: {}
    sources: Callable[[str], int] | None = None

    def sample(self, n: int) -> Sample:
        """Sample `n`, whoever asks and in whatever order."""
        unit = self.routing.unit(n, self.group_size, self.batch_size)
        route = self.routing.route(n, self.batch_size, generator(self.seed, Stream.ROUTE, unit))
        row = int(generator(self.seed, Stream.ROW, n).integers(self.rows[route]))
        size = self.size(route, row)
        indices = self.query.draw(n, generator(self.seed, Stream.QUERY, n), self.grid(size).tolist())
        shares = self.shares(route, row, generator(self.seed, Stream.SCORE, n))
        return Sample(n, route, row, indices, size, tuple(shares.items()))

    def groups(self, step: int) -> tuple[Group, ...]:
        """The groups of a step, in the order of its batches."""
        return tuple(group for batch in self.batches(step) for group in batch)

    def batches(self, step: int) -> tuple[Batch, ...]:
        """The batches of a step. In each of them routes are in their configured order, sizes and experts as they first occur,
        ids ascending; batches are in the order of their first groups."""
        first = step * self.batch_size
        samples = [self.sample(n) for n in range(first, first + self.batch_size)]
        alike: dict[tuple[str, Size | None, tuple[str, ...]], list[Sample]] = {}
        for route in self.routing.weights:
            for sample in samples:
                if sample.route == route:
                    alike.setdefault((route, sample.size, sample.experts), []).append(sample)
        if self.sources is None:
            return tuple((group,) for own in alike.values() for group in _groups(step, own, self.group_size))
        shapes: dict[tuple[int, Size | None], list[Sample]] = {}
        for (route, size, _), own in alike.items():
            shapes.setdefault((self.sources(route), size), []).extend(own)
        return tuple(
            tuple(Group(step, route, tuple(own)) for (route, _), own in groupby(part, lambda s: (s.route, s.experts)))
            for own in shapes.values()
            for part in _evenly(own, ceil(len(own) / self.group_size))
        )


def _groups(step: int, samples: Sequence[Sample], size: int) -> list[Group]:
    """Samples of one route in groups of a size; the last may be smaller."""
    return [Group(step, samples[0].route, tuple(samples[at : at + size])) for at in range(0, len(samples), size)]


def _evenly(samples: Sequence[Sample], parts: int) -> list[Sequence[Sample]]:
    """The samples in so many parts whose lengths differ by 1 at most: a step waits for its largest batch."""
    return [samples[len(samples) * part // parts : len(samples) * (part + 1) // parts] for part in range(parts)]
