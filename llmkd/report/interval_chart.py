"""Dots with whiskers, a model per row, over one axis."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmkd.report.axes import Axis, axis
from llmkd.report.formats import shortened, tick
from llmkd.report.svg import element

WIDTH, ROW, BELOW = 360.0, 38.0, 24.0
LEFT, RIGHT = 12.0, 348.0
LONGEST_NAME = 34


@dataclass(frozen=True)
class Whisker:
    """One row.

    Args:
        name: The model.
        color: CSS class that gives it its colour.
        text: The number beside the name.
        value: Where the dot is.
        low: Where the whisker begins.
        high: Where it ends.
        each: Single runs, as small dots.
    """

    name: str
    color: str
    text: str
    value: float
    low: float
    high: float
    each: Sequence[float] = ()


def interval_chart(rows: Sequence[Whisker], *, label: str, is_percent: bool) -> Markup:
    """The chart as SVG.

    Args:
        rows: At least one.
        label: What the chart shows, for those who cannot see it.
        is_percent: The numbers are shares, shown times 100.
    """
    factor = 100 if is_percent else 1
    shown = [[factor * x for x in (row.value, row.low, row.high, *row.each)] for row in rows]
    across = axis([x for numbers in shown for x in numbers], LEFT, RIGHT)
    bottom = ROW * len(rows) + 4
    parts = [part for i, row in enumerate(rows) for part in _row(row, shown[i], ROW * i, across)]
    return element(
        "svg",
        *_scale(across, bottom, " %" if is_percent else ""),
        *parts,
        viewBox=f"0 0 {WIDTH:.0f} {bottom + BELOW:.0f}",
        class_="chart intervals",
        role="img",
        aria_label=label,
    )


def _scale(across: Axis, bottom: float, unit: str) -> Iterator[Markup]:
    for value in across.ticks:
        x = across(value)
        yield element("line", x1=x, y1=0, x2=x, y2=bottom, class_="grid")
        text = tick(value) + unit
        # Near the edges the text turns inwards.
        anchor = "start" if x < LEFT + 8 else "end" if x > RIGHT - 8 else "middle"
        yield element("text", text, x=x, y=bottom + 14, class_="tick", text_anchor=anchor)
    yield element("line", x1=LEFT, y1=bottom, x2=RIGHT, y2=bottom, class_="axis")


def _row(row: Whisker, numbers: Sequence[float], top: float, across: Axis) -> Iterator[Markup]:
    y = top + 26
    name = shortened(row.name, LONGEST_NAME)
    yield element("text", name, x=LEFT, y=top + 14, class_="name")
    yield element("text", row.text, x=RIGHT, y=top + 14, class_="value", text_anchor="end")
    value, low, high, *each = numbers
    if math.isfinite(low) and math.isfinite(high):
        yield element(
            "line", x1=across(low), y1=y, x2=across(high), y2=y, class_=f"whisker {row.color}"
        )
        for end in (low, high):
            yield element(
                "line",
                x1=across(end),
                y1=y - 4,
                x2=across(end),
                y2=y + 4,
                class_=f"whisker {row.color}",
            )
    for single in filter(math.isfinite, each):
        yield element("circle", cx=across(single), cy=y, r=3, class_=f"ring {row.color}")
    if math.isfinite(value):
        yield element(
            "circle", element("title", f"{row.name}: {row.text}"),
            cx=across(value), cy=y, r=5, class_=f"dot {row.color}",
        )  # fmt: skip
