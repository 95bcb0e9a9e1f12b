"""The scores that rows have over routes, and which experts answer a row by them."""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from fields.data.bucket import Bucket
from fields.method.scoring import Shares
from fields.shown import shown
from pipelines.config.location import fetched
from pipelines.config.routing import ScoredRoutingConfig
from pipelines.config.run import RunConfig

RowShares = Callable[[str, int, np.random.Generator], Shares]


def row_shares(config: RunConfig, scores: Callable[[str, int], Mapping[str, float] | None]) -> RowShares:
    """(Route, row, random numbers of the sample) -> the experts that answer it with their factors; none where routes decide.

    Args:
        config: of the run.
        scores: (route, row) -> its scores over routes, if it has some.
    """
    if not isinstance(config.routing, ScoredRoutingConfig):
        return lambda route, row, rng: {}
    scoring = config.routing.scoring({name: route.expert for name, route in config.routes.items()})

    def shares(route: str, row: int, rng: np.random.Generator) -> Shares:
        by_row = scoring.shares(route, scores(route, row), rng)
        return {name: by_row[name] for name in config.experts if name in by_row}

    return shares


def experts_by_scores(config: RunConfig, route: str) -> list[str]:
    """The experts that the scores of a route's rows name; none where scores don't route.

    Raises:
        ValueError: if the file cannot be read, or names a route that isn't there.
    """
    if not isinstance(config.routing, ScoredRoutingConfig):
        return []
    named = scored_routes(fetched(config.routes[route].data), config.routes)
    experts = [config.routes[name].expert for name in named]
    if len(set(experts)) > 1 and config.routing.unconditional is not None:
        experts.append(config.routing.unconditional)
    return list(dict.fromkeys(experts))


def scored_routes(path: Path, routes: Collection[str]) -> tuple[str, ...]:
    """The routes that a row of a file has a score for that is not 0, in the order in which they come.

    Raises:
        ValueError: if the file cannot be read, a row's scores are none, or are of a route that isn't there; names the row.
    """
    return _scored_routes(path, tuple(routes))


@cache  # a process reads a file's scores once
def _scored_routes(path: Path, routes: tuple[str, ...]) -> tuple[str, ...]:
    bucket = Bucket(path)
    found: Mapping[str, None] = {}
    for number, scores in enumerate(bucket.every_rows_scores()) if bucket.scored else ():
        if unknown := [name for name in scores or () if name not in routes]:
            where = f"{path} row {number} ({shown(bucket[number].uid)})"
            raise ValueError(f"{where}: scores name the route {shown(unknown[0])}; the routes are {', '.join(routes)}")
        found |= dict.fromkeys(name for name, score in (scores or {}).items() if score > 0)
    return tuple(found)
