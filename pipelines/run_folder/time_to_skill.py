"""After how much training a student can do what its experts can: what a user pays for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from fields.evaluation.base import Skills
from fields.scene.exam import route_skill

SHARE = 0.9  # of its expert's graded skill: what counts as holding it


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamTaken:
    """A student's exam on the way.

    Attributes:
        step: optimizer steps done before it.
        samples: trained on in these.
        seconds: that these took, exams left out.
        skills: category -> measure -> value.
    """

    step: int
    samples: int
    seconds: float
    skills: Skills

    @property
    def price(self) -> dict[str, float]:
        """What was spent until then."""
        return {name: value for name, value in asdict(self).items() if name != "skills"}


def exams_taken(metrics: Sequence[Mapping[str, Any]], skills: Sequence[Mapping[str, Any]]) -> list[ExamTaken]:
    """The exams of a run from the rows of metrics.jsonl and skills.jsonl, in order.

    Exams at steps whose row is missing, such as the one before the first step, are left out.
    """
    samples = list(accumulate(row["samples"] for row in metrics))
    spent = {row["step"] + 1: (total, row["seconds"]) for row, total in zip(metrics, samples, strict=True)}

    def found() -> Iterator[ExamTaken]:
        for row in skills:
            if row["step"] in spent:
                total, seconds = spent[row["step"]]
                yield ExamTaken(step=row["step"], samples=total, seconds=seconds, skills=row["skills"])

    return list(found())


def first_holding(exams: Sequence[ExamTaken], levels: Mapping[str, float]) -> ExamTaken | None:
    """The first exam in which a student holds `SHARE` of every expert's skill; None if there is none.

    Args:
        exams: in order.
        levels: route -> the graded skill of its expert, 0 to 1; of none, nobody is said to hold it.
    """
    if not levels:
        return None
    return next((exam for exam in exams if not lacking(exam.skills, levels)), None)


def lacking(skills: Skills, levels: Mapping[str, float]) -> dict[str, float]:
    """The routes in which a student doesn't hold `SHARE` of its expert's skill, and the share that it holds."""
    shares = {route: route_skill(skills, route) / level for route, level in levels.items() if level > 0}
    return {route: share for route, share in shares.items() if share < SHARE}
