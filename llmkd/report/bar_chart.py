"""Histograms: bars for one set of counts, steps for several models on one axis."""

from collections.abc import Sequence

from markupsafe import Markup

from llmkd.report.line_chart import Mark, Series, line_chart

MOST_BARS = 30


def histogram(
    counts: Sequence[tuple[str, str, Sequence[tuple[float, float, float]]]],
    *,
    label: str,
    x_label: str,
    mark: Mark | None = None,
    is_wide: bool = False,
) -> Markup:
    """Counts as outlines, shaded down to zero.

    Args:
        counts: Name, colour class, and (low edge, high edge, amount) per bar, in order.
        label: What the chart shows, for those who cannot see it.
        x_label: What is counted by.
        mark: A vertical line.
        is_wide: Takes a logarithmic x-axis where the edges span a decade and a half.
    """
    series = [_outline(name, color, bars) for name, color, bars in counts if bars]
    return line_chart(
        series, label=label, x_label=x_label, has_zero=True, mark=mark, x_may_be_log=is_wide
    )


def _outline(name: str, color: str, bars: Sequence[tuple[float, float, float]]) -> Series:
    corners = [(edge, amount) for low, high, amount in bars for edge in (low, high)]
    points = [(corners[0][0], 0.0), *corners, (corners[-1][0], 0.0)]
    return Series(name, color, points, band=[(x, 0.0, amount) for x, amount in corners])


def binned(
    counts: Sequence[tuple[int, int]], edge: int, most: int = MOST_BARS
) -> list[tuple[float, float, float]]:
    """Counts of whole numbers, gathered into at most `most` bars from 0 to beyond `edge`.

    Example:
        >>> binned([(1, 5), (3, 2)], edge=3, most=2)
        [(0.0, 2.0, 5.0), (2.0, 4.0, 2.0)]
    """
    width = -(-(edge + 1) // most)
    amounts = [0] * (edge // width + 1)
    for value, amount in counts:
        amounts[value // width] += amount
    return [(float(i * width), float((i + 1) * width), float(n)) for i, n in enumerate(amounts)]
