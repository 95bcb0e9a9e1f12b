"""Means over seeds with their intervals, and paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, fmean, stdev
from typing import Literal

# Student's t at 97.5 % by degrees of freedom: what a 95 % interval of a mean of few seeds takes.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120)

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
    return Estimate(fmean(values), _quantile(n - 1) * stdev(values) / sqrt(n), n)


def _quantile(freedom: int) -> float:
    """Student's t at 97.5 %; beyond the table the normal one with its first two corrections (error below 0.001)."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


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
