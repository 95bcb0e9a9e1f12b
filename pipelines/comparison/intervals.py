"""Means over seeds with their intervals, and paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, cos, pi, sin, sqrt
from statistics import fmean, stdev
from typing import Literal

_CONFIDENCE = 0.95

Verdict = Literal["holds", "reversed", "undecided"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds and half the width of its 95 % interval; None with a single seed."""

    mean: float
    half_width: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + (f" ± {self.half_width:.3f}" if self.half_width is not None else "")


def estimate(values: Sequence[float]) -> Estimate:
    """The mean with its interval by Student's t."""
    n = len(values)
    if n == 1:
        return Estimate(values[0], None, 1)
    return Estimate(fmean(values), student_t(n - 1) * stdev(values) / sqrt(n), n)


def student_t(freedom: int) -> float:
    """The value that |T| stays below with a probability of 95 %, for Student's T with `freedom` >= 1 degrees of freedom.

    By bisection: this one number isn't worth SciPy's 100 MB, and for whole degrees of freedom the distribution is a finite sum.
    """
    low, high = 1.0, 16.0  # it falls from 12.7 at one degree of freedom to the normal distribution's 1.96
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, freedom) < _CONFIDENCE else (low, middle)
    return low


def _within(t: float, freedom: int) -> float:
    """P(|T| < t) by Abramowitz and Stegun, 26.7.3 for an odd number of degrees of freedom and 26.7.4 for an even one."""
    angle, odd = atan(t / sqrt(freedom)), freedom % 2
    total, term = 0.0, cos(angle) if odd else 1.0
    for n in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (n - 1) / n * cos(angle) ** 2
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


def difference(a: dict[int, float], b: dict[int, float]) -> Estimate | None:
    """a - b by seed, over the seeds that both have; the same seed draws the same samples. None without a common seed."""
    common = sorted(a.keys() & b.keys())
    return estimate([a[seed] - b[seed] for seed in common]) if common else None


def verdict(better: dict[int, float], worse: dict[int, float]) -> Verdict:
    """Whether `better` is better: decided only where the interval of the paired difference leaves out 0."""
    gap = difference(better, worse)
    if gap is None or gap.half_width is None or abs(gap.mean) <= gap.half_width:
        return "undecided"
    return "holds" if gap.mean > 0 else "reversed"
