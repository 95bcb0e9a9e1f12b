"""Charts as inline SVG: pure functions from numbers to markup.

Written by hand, because a page must be one file that needs no network and no script, its lines must follow the reader's light
or dark mode (so colours are classes of the page's style sheet), each point must show its value under the pointer, and a screen
reader must hear what the chart says. Plotting libraries give pictures with fixed colours, or a page with megabytes of script.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from math import ceil, log
from typing import Literal

Point = tuple[float, float]

COLOURS = 8  # classes line-0 to line-7 of the style sheet; further lines start over
_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 46
_MOST_POINTS = 800  # of one line; more could not be told apart at this width
_MOST_MARKED = 30  # lines of fewer points show each point, with its value
_MOST_TICKS = 8
_GRID = [float(f"{digit}e{exponent}") for exponent in range(-45, 40) for digit in (1, 2, 5)]  # every float32 loss lies between


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a chart: its points (x, y) in order of x, and the number of its colour.

    Only solid lines stand in the legend, with their label; faint and dashed ones accompany a solid one.
    """

    label: str
    points: Sequence[Point]
    colour: int
    style: Literal["solid", "faint", "dashed"] = "solid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis from `low` to `high` with labelled ticks; both bounds are positive if it is logarithmic."""

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    logarithmic: bool = False
    unit: str = ""

    def share(self, value: float) -> float:
        """Where a value lies between `low` (0) and `high` (1)."""
        if self.logarithmic:
            return log(value / self.low) / log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def write(self, value: float) -> str:
        """A value as text, with the unit."""
        return f"{value:.4g}{self.unit}"


def linear_axis(title: str, low: float, high: float, unit: str = "") -> Axis:
    """An axis with whole-numbered ticks; a single value gets room on its right."""
    if high <= low:
        high = low + 1
    spacing = next(s for s in _GRID if s >= 1 and (high - low) / s < _MOST_TICKS)
    ticks = [n * spacing for n in range(ceil(low / spacing), int(high // spacing) + 1)]
    return Axis(title=title, low=low, high=high, ticks=ticks, unit=unit)


def logarithmic_axis(title: str, values: Sequence[float]) -> Axis:
    """An axis around positive values that begins and ends at 1, 2 or 5 times a power of ten."""
    first = max(n for n, line in enumerate(_GRID) if line <= min(values))
    last = min(n for n, line in enumerate(_GRID) if line > max(values))
    ticks = _GRID[first : last + 1]
    if len(ticks) > _MOST_TICKS:
        powers = [line for n, line in enumerate(_GRID[first : last + 1], first) if n % 3 == 0]
        ticks = powers[:: ceil(len(powers) / _MOST_TICKS)]
    return Axis(title=title, low=_GRID[first], high=_GRID[last], ticks=ticks, logarithmic=True)


def smoothed(points: Sequence[Point], decay: float) -> list[Point]:
    """The exponential moving average of y, without the pull to its start at zero; `decay` in [0, 1)."""
    average, result = 0.0, []
    for n, (x, y) in zip(count(1), points, strict=False):
        average = decay * average + (1 - decay) * y
        result.append((x, average / (1 - decay**n)))
    return result


def line_chart(title: str, description: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """A figure with caption, chart and legend; on a logarithmic axis y values of 0 and less are left out."""
    drawn = "".join(_line(line, x, y) for line in sorted(lines, key=lambda line: line.style == "solid"))
    legend = _legend([(line.label, line.colour) for line in lines if line.style == "solid"])
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">'
        f"{_frame(x, y)}{drawn}</svg>{legend}</figure>"
    )


def share_bar(title: str, shares: Sequence[tuple[str, float]]) -> str:
    """A figure with a bar that is divided as a whole is, and its legend in percent.

    Args:
        title: the caption.
        shares: of the whole by label, not negative; their sum is at most 1, and what is missing stays empty.
    """
    begins = [sum(share for _, share in shares[:n]) for n in range(len(shares))]
    labels = [f"{label} {100 * share:.0f} %" for label, share in shares]
    width = _WIDTH - 2 * _RIGHT
    parts = "".join(
        f'<path class="bar line-{n % COLOURS}" d="M{_RIGHT + begin * width:.1f} 14h{share * width:.1f}">'
        f"<title>{escape(label)}</title></path>"
        for n, (begin, (_, share), label) in enumerate(zip(begins, shares, labels, strict=True))
        if share > 0
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg class="plot" viewBox="0 0 {_WIDTH} 28" role="img" aria-label="{escape("; ".join(labels))}">{parts}</svg>'
        f"{_legend([(label, n) for n, label in enumerate(labels)])}</figure>"
    )


def _legend(entries: Sequence[tuple[str, int]]) -> str:
    """Labels, each beside a piece of a solid line of its colour."""
    return (
        '<ul class="legend">'
        + "".join(
            f'<li><svg class="swatch" viewBox="0 0 24 8" aria-hidden="true">'
            f'<path class="{_classes(colour, "solid")}" d="M0 4H24"/></svg>{escape(label)}</li>'
            for label, colour in entries
        )
        + "</ul>"
    )


def _across(x: Axis, value: float) -> float:
    """The horizontal pixel of a value."""
    return round(_LEFT + x.share(value) * (_WIDTH - _LEFT - _RIGHT), 1)


def _down(y: Axis, value: float) -> float:
    """The vertical pixel of a value."""
    return round(_HEIGHT - _BOTTOM - y.share(value) * (_HEIGHT - _TOP - _BOTTOM), 1)


def _classes(colour: int, style: str) -> str:
    return f"line line-{colour % COLOURS} {style}"


def _frame(x: Axis, y: Axis) -> str:
    """Grid lines, tick labels and axis titles."""
    floor = _HEIGHT - _BOTTOM
    centre, middle = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + floor) / 2
    across = "".join(
        f'<path class="tick" d="M{_across(x, tick)} {floor}v5"/>'
        f'<text x="{_across(x, tick)}" y="{floor + 19}" text-anchor="middle">{x.write(tick)}</text>'
        for tick in x.ticks
    )
    down = "".join(
        f'<path class="grid" d="M{_LEFT} {_down(y, tick)}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 8}" y="{_down(y, tick) + 4}" text-anchor="end">{y.write(tick)}</text>'
        for tick in y.ticks
    )
    titles = (
        f'<text x="{centre}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x.title)}</text>'
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(y.title)}</text>'
    )
    return f'{down}<path class="tick" d="M{_LEFT} {floor}H{_WIDTH - _RIGHT}"/>{across}{titles}'


def _line(line: Line, x: Axis, y: Axis) -> str:
    """A line's path, and a mark with its value for every point if there are few."""
    points = [(a, b) for a, b in line.points if b > 0 or not y.logarithmic]
    stride = max(1, ceil(len(points) / _MOST_POINTS))
    kept = [*points[:-1:stride], *points[-1:]]
    path = "L".join(f"{_across(x, a)} {_down(y, b)}" for a, b in kept)
    drawn = f'<path class="{_classes(line.colour, line.style)}" d="M{path}"/>' if len(kept) > 1 else ""
    if len(kept) > _MOST_MARKED or line.style != "solid":
        return drawn
    marks = "".join(
        f'<circle class="{_classes(line.colour, line.style)}" cx="{_across(x, a)}" cy="{_down(y, b)}" r="3">'
        f"<title>{escape(line.label)}, {escape(x.title)} {x.write(a)}: {y.write(b)}</title></circle>"
        for a, b in kept
    )
    return drawn + marks
