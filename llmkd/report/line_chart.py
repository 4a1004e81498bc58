"""Small line charts: several models over one x-axis, with gaps where there is no number."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from llmkd.report.axes import Axis, axis
from llmkd.report.formats import number, tick
from llmkd.report.svg import element, path

WIDTH, HEIGHT = 360.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 350.0, 8.0, 196.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line.

    Args:
        name: What it is called where the pointer is.
        color: CSS class that gives it its colour.
        points: (x, y); where y is not finite the line has a gap.
        is_dashed: For a second kind of line in the same colour.
        band: (x, low, high) around the line.
        has_dots: Marks every point.
    """

    name: str
    color: str
    points: Sequence[Point]
    is_dashed: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    has_dots: bool = False


@dataclass(frozen=True)
class Mark:
    """A labelled vertical line."""

    x: float
    label: str


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    may_be_log: bool = False,
    has_zero: bool = False,
    mark: Mark | None = None,
    x_from_zero: bool = False,
    x_may_be_log: bool = False,
    x_is_whole: bool = False,
    unit_square: bool = False,
) -> Markup:
    """The chart as SVG; its numbers are in `data-lines`, for the pointer to read.

    Args:
        series: At least one.
        label: What the chart shows, for those who cannot see it.
        x_label: What x is.
        may_be_log: Takes a logarithmic y-axis where the values span a decade and a half.
        has_zero: Begins the y-axis at 0.
        mark: A vertical line.
        x_from_zero: Begins the x-axis at 0.
        x_may_be_log: As `may_be_log`, for x.
        x_is_whole: Writes no fractions on the x-axis, for x are numbered things.
        unit_square: Both axes from 0 to 1, with the diagonal.
    """
    xs = [x for line in series for x, _ in line.points] + ([mark.x] if mark else [])
    ys = [y for line in series for _, y in line.points]
    ys += [y for line in series for _, *ends in line.band for y in ends]
    across = _tight(xs, has_zero=x_from_zero, may_be_log=x_may_be_log)
    up = axis(ys, BOTTOM, TOP, may_be_log=may_be_log, has_zero=has_zero)
    if x_is_whole:
        across = replace(across, ticks=tuple(x for x in across.ticks if x == int(x)))
    if unit_square:
        across, up = (Axis(0, 1, *ends, False, (0, 0.25, 0.5, 0.75, 1)) for ends in _ENDS)
    drawn = [_band(line, across, up) for line in series if line.band]
    if unit_square:
        drawn.append(element("line", x1=LEFT, y1=BOTTOM, x2=RIGHT, y2=TOP, class_="reference"))
    drawn += [part for line in series for part in _line(line, across, up)]
    if mark is not None:
        drawn.append(_mark(mark, across))
    return element(
        "svg",
        *_frame(across, up, x_label),
        *drawn,
        viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        class_="chart",
        role="img",
        aria_label=label,
        data_lines=json.dumps([_hover(line, across, up) for line in series]),
    )


_ENDS = ((LEFT, RIGHT), (BOTTOM, TOP))


def _tight(xs: Sequence[float], *, has_zero: bool, may_be_log: bool) -> Axis:
    """An x-axis from the first to the last x, without room beside them."""
    roomy = axis(xs, LEFT, RIGHT, has_zero=has_zero, may_be_log=may_be_log)
    finite = [x for x in xs if math.isfinite(x)]
    if len(set(finite)) < 2:
        return roomy
    low, high = (0.0 if has_zero else min(finite)), max(finite)
    ticks = tuple(x for x in roomy.ticks if low <= x <= high)
    return Axis(low, high, LEFT, RIGHT, roomy.is_log, ticks)


def _frame(across: Axis, up: Axis, x_label: str) -> Iterator[Markup]:
    for value in up.ticks:
        y = up(value)
        yield element("line", x1=LEFT, y1=y, x2=RIGHT, y2=y, class_="grid")
        yield element("text", tick(value), x=LEFT - 6, y=y + 3.5, class_="tick", text_anchor="end")
    yield element("line", x1=LEFT, y1=BOTTOM, x2=RIGHT, y2=BOTTOM, class_="axis")
    for value in across.ticks:
        x = across(value)
        yield element("line", x1=x, y1=BOTTOM, x2=x, y2=BOTTOM + 4, class_="axis")
        # At the right edge the text turns inwards.
        anchor = "end" if x > RIGHT - 12 else "middle"
        yield element("text", tick(value), x=x, y=BOTTOM + 16, class_="tick", text_anchor=anchor)
    middle = (LEFT + RIGHT) / 2
    yield element("text", x_label, x=middle, y=HEIGHT - 3, class_="tick", text_anchor="middle")
    if up.is_log:
        yield element("text", "log scale", x=RIGHT, y=TOP + 8, class_="tick", text_anchor="end")


def _line(line: Series, across: Axis, up: Axis) -> Iterator[Markup]:
    style = f"line {line.color}{' dashed' * line.is_dashed}"
    pieces = list(_pieces(line.points))
    for piece in pieces:
        if len(piece) > 1:
            yield element("path", d=path((across(x), up(y)) for x, y in piece), class_=style)
    # A point between two gaps would not be seen.
    dots = [point for piece in pieces for point in piece if line.has_dots or len(piece) == 1]
    for x, y in dots:
        yield element("circle", cx=across(x), cy=up(y), r=2.5, class_=f"dot {line.color}")


def _pieces(points: Sequence[Point]) -> Iterator[list[Point]]:
    """The stretches between gaps."""
    piece: list[Point] = []
    for x, y in points:
        if math.isfinite(y):
            piece.append((x, y))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _band(line: Series, across: Axis, up: Axis) -> Markup:
    there = [(across(x), up(high)) for x, _, high in line.band]
    back = [(across(x), up(low)) for x, low, _ in reversed(line.band)]
    return element("path", d=path(there + back, is_closed=True), class_=f"band {line.color}")


def _mark(mark: Mark, across: Axis) -> Markup:
    x = across(mark.x)
    is_right = x > (LEFT + RIGHT) / 2
    return element(
        "g",
        element("line", x1=x, y1=TOP, x2=x, y2=BOTTOM, class_="mark"),
        element(
            "text",
            mark.label,
            x=x - 5 if is_right else x + 5,
            y=TOP + 10,
            class_="tick",
            text_anchor="end" if is_right else None,
        ),
    )


def _hover(line: Series, across: Axis, up: Axis) -> dict[str, object]:
    """What the page's script shows at the pointer: pixels, and numbers as text."""
    return {
        "name": line.name,
        "color": line.color,
        "points": [
            [round(across(x), 1), round(up(y), 1), number(x), number(y)]
            for x, y in line.points
            if math.isfinite(y)
        ],
    }
