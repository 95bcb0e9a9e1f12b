"""Which rows' scores leave open who should answer them, and how far the experts in question disagree there."""

from collections.abc import Sequence
from dataclasses import dataclass

from fields.data.bucket import Bucket
from fields.data.rows import Row
from pipelines.config.location import fetched
from pipelines.config.routing import ScoredRoutingConfig
from pipelines.parts.check_rows import checked_numbers
from pipelines.reports.compared_fields import ComparedFields

CLEAR = 0.75  # a row with a score of this or more is that route's


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbiguousRow:
    """A row without a clear route.

    Attributes:
        uid, prompt: of the row.
        scores: route -> score, the highest first.
        experts: of the two routes with the highest scores.
        difference: root mean square of their velocities' difference, the mean over the student's rollout; None if one of them
            cannot be asked about the row.
    """

    uid: str
    prompt: str
    scores: dict[str, float]
    experts: tuple[str, str]
    difference: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambiguity:
    """A route's rows without a clear route.

    Attributes:
        looked_at: rows whose scores were read.
        ambiguous: how many of them have no score of CLEAR.
        rows: the most ambiguous.
    """

    looked_at: int
    ambiguous: int
    rows: list[AmbiguousRow]

    def sentence(self, route: str) -> str:
        """What a route's user should know."""
        said = f"{route}: {self.ambiguous} of {self.looked_at} rows are ambiguous (no score reaches {CLEAR:g})"
        asked = [row for row in self.rows if row.difference is not None]
        if not asked:
            return said
        differences = [row.difference for row in asked if row.difference is not None]
        most = asked[differences.index(max(differences))]
        return (
            f"{said}; over {len(asked)} of them their two experts differ by {sum(differences) / len(asked):.2f} "
            f"({min(differences):.2f} to {max(differences):.2f}), most {' and '.join(most.experts)} for {most.uid!r}"
        )


def ambiguities(fields: ComparedFields, samples: int) -> dict[str, Ambiguity]:
    """Route -> its ambiguous rows, of routes whose rows have scores; nothing where scores don't route.

    Args:
        fields: of the run.
        samples: most rows of a route at which the experts are asked.
    """
    config = fields.parts.config
    if not isinstance(config.routing, ScoredRoutingConfig):
        return {}
    found = {}
    for name, route in config.routes.items():
        bucket = Bucket(fetched(route.data))
        if bucket.scored:
            numbers = checked_numbers(bucket)
            highest = {n: max(scores.values()) for n in numbers if (scores := bucket.scores(n)) is not None}
            unclear = sorted((n for n, score in highest.items() if score < CLEAR), key=lambda n: (highest[n], n))
            rows = [_asked(fields, bucket[n], n) for n in unclear[:samples]]
            found[name] = Ambiguity(looked_at=len(numbers), ambiguous=len(unclear), rows=rows)
    return found


def _asked(fields: ComparedFields, row: Row, number: int) -> AmbiguousRow:
    scores = dict(sorted(row.scores or (), key=lambda scored: -scored[1]))
    first, second = (fields.parts.config.routes[route].expert for route in list(scores)[:2])
    pairs = {frozenset(pair): series for pair, series in fields.compare([row], number).items()}
    series = pairs.get(frozenset((first, second)))
    return AmbiguousRow(
        uid=row.uid,
        prompt=row.prompt,
        scores=scores,
        experts=(first, second),
        difference=None if series is None else _mean([point.difference for point in series]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
