"""The scores that rows have over routes, and which experts answer a row by them."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from fields.data.bucket import Bucket
from fields.method.scoring import Shares
from fields.shown import shown
from pipelines.config.routing import ScoredRoutingConfig
from pipelines.config.run import RunConfig
from pipelines.parts.check_rows import checked_numbers

RowShares = Callable[[str, int, np.random.Generator], Shares]


def row_shares(config: RunConfig, bucket: Callable[[str], Bucket]) -> RowShares:
    """(Route, row, random numbers of the sample) -> the experts that answer it with their factors; none where routes decide.

    Args:
        config: of the run.
        bucket: opens a route's rows.
    """
    if not isinstance(config.routing, ScoredRoutingConfig):
        return lambda route, row, rng: {}
    scoring = config.routing.scoring({name: route.expert for name, route in config.routes.items()})

    def shares(route: str, row: int, rng: np.random.Generator) -> Shares:
        by_row = scoring.shares(route, bucket(route).scores(row), rng)
        return {name: by_row[name] for name in config.experts if name in by_row}

    return shares


def scored_experts(config: RunConfig, bucket: Callable[[str], Bucket]) -> Mapping[str, list[str]]:
    """Route -> the experts that its rows' scores may ask; a file without scores asks those of its route alone.

    Raises:
        ValueError: if a route's file cannot be read.
    """
    if not isinstance(config.routing, ScoredRoutingConfig):
        return {}
    experts = [route.expert for route in config.routes.values()]
    if config.routing.unconditional is not None:
        experts.append(config.routing.unconditional)
    return {name: list(dict.fromkeys(experts)) for name in config.routes if bucket(name).scored}


def check_scores(path: Path, routes: Collection[str]) -> None:
    """Check that the scores of a file's rows are of routes that there are.

    Raises:
        ValueError: names the file, the row and the routes.
    """
    bucket = Bucket(path)
    for number in checked_numbers(bucket) if bucket.scored else ():
        if unknown := [name for name in bucket.scores(number) or () if name not in routes]:
            where = f"{path} row {number} ({shown(bucket[number].uid)})"
            raise ValueError(f"{where}: scores name the route {shown(unknown[0])}; the routes are {', '.join(routes)}")
