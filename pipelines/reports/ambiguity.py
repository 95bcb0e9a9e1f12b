"""Rows whose scores leave open which expert should answer them, and how far the experts in question disagree there."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from fields.data.bucket import Bucket
from fields.data.rows import Row
from pipelines.config.location import fetched
from pipelines.config.routing import ScoredRoutingConfig
from pipelines.reports.compared_fields import ComparedFields

CLEAR = 0.75  # a row in which an expert's scores sum to this or more is that expert's


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbiguousRow:
    """A row that is clearly nobody's.

    Attributes:
        uid, prompt: of the row.
        scores: expert -> the sum of the scores of its routes, the highest first.
        difference: between the first two experts: root mean square of their velocities' difference, the mean over the student's
            rollout; None if one of them cannot be asked about the row.
    """

    uid: str
    prompt: str
    scores: dict[str, float]
    difference: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambiguity:
    """A route's rows that are clearly nobody's.

    Attributes:
        looked_at: rows of the route.
        ambiguous: how many of them have scores, and no expert with a score of CLEAR.
        rows: the most ambiguous.
    """

    looked_at: int
    ambiguous: int
    rows: list[AmbiguousRow]

    def sentence(self, route: str) -> str:
        """What a route's user should know."""
        said = f"{route}: {self.ambiguous} of {self.looked_at} rows are ambiguous (no expert's score reaches {CLEAR:g})"
        asked = [(row.difference, row) for row in self.rows if row.difference is not None]
        if not asked:
            return said
        differences = [difference for difference, _ in asked]
        _, most = max(asked, key=lambda pair: pair[0])
        return (
            f"{said}; over {len(asked)} of them their two experts differ by {fmean(differences):.2f} "
            f"({min(differences):.2f} to {max(differences):.2f}), most {' and '.join(list(most.scores)[:2])} for {most.uid!r}"
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
    scoring = config.routing.scoring({name: route.expert for name, route in config.routes.items()})
    found = {}
    for name, route in config.routes.items():
        bucket = Bucket(fetched(route.data))
        if bucket.scored:
            scores = {n: scoring.by_expert(own) for n, own in enumerate(bucket.every_rows_scores()) if own is not None}
            highest = {n: max(own.values()) for n, own in scores.items()}
            unclear = sorted((n for n in scores if highest[n] < CLEAR), key=lambda n: (highest[n], n))
            rows = [_asked(fields, bucket[n], n, scores[n]) for n in unclear[:samples]]
            found[name] = Ambiguity(looked_at=len(bucket), ambiguous=len(unclear), rows=rows)
    return found


def _asked(fields: ComparedFields, row: Row, number: int, scores: Mapping[str, float]) -> AmbiguousRow:
    by_score = dict(sorted(scores.items(), key=lambda scored: -scored[1]))
    two = list(by_score)[:2]
    series = {frozenset(pair): points for pair, points in fields.compare([row], number, two).items()}.get(frozenset(two))
    difference = None if series is None else fmean(point.difference for point in series)
    return AmbiguousRow(uid=row.uid, prompt=row.prompt, scores=by_score, difference=difference)
