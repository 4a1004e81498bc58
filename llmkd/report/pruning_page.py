"""The page of `llmkd prune --report`: which layers matter, and what it costs to do without some."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from llmkd.report.bar_chart import histogram
from llmkd.report.formats import number
from llmkd.report.line_chart import Series, line_chart
from llmkd.report.template import rendered

COLORS = {"angular_distance": "student-0", "block_influence": "twin-0"}
"""Colour class of each importance."""
SHADES = ("student-0", "student-1", "student-2", "teacher-1", "other-0")
"""Of blocks of more and more layers."""


def pruning_page(found: Mapping[str, Any]) -> str:
    """The page as HTML: one file, which loads nothing.

    Args:
        found: What `llmkd prune --report --json` prints.
    """
    sizes = found["sizes"]
    lengths = _some_lengths(len(sizes) - 1)
    return rendered(
        "pruning.html",
        found=found,
        sizes=sizes,
        colors=COLORS,
        lengths=list(zip(lengths, SHADES, strict=False)),
        influence=_influence(found["block_influence"]),
        distances=_distances(found["angular_distances"], lengths),
        perplexity=_perplexity(sizes),
        cost=_cost(sizes),
    )


def _some_lengths(most: int) -> list[int]:
    """At most five numbers of layers, from 1 to the most, each about double the one before."""
    steps = [n for n in (1, 2, 4, 8, 16, 32) if n < most][: len(SHADES) - 1]
    return [*steps, most]


def _influence(values: Sequence[float]) -> Markup:
    bars = [(layer - 0.5, layer + 0.5, value) for layer, value in enumerate(values)]
    said = "; ".join(f"{layer}: {number(value)}" for layer, value in enumerate(values))
    label = f"Block influence by layer ({said})"
    return histogram(
        [("block influence", COLORS["block_influence"], bars)], label=label, x_label="layer"
    )


def _distances(distances: Sequence[Sequence[float]], lengths: Sequence[int]) -> Markup:
    series = [
        Series(
            f"{n} layer{'s' * (n > 1)}",
            color,
            [(float(first), value) for first, value in enumerate(distances[n - 1])],
            has_dots=True,
        )
        for n, color in zip(lengths, SHADES, strict=False)
    ]
    label = "Angular distance over blocks of layers, by their first layer"
    return line_chart(series, label=label, x_label="first layer", has_zero=True, x_is_whole=True)


def _perplexity(sizes: Sequence[Mapping[str, Any]]) -> Markup:
    series = [
        Series(
            importance,
            color,
            [(float(n), one["perplexity"]) for n, one in _choices(sizes, importance)],
            band=[
                (float(n), one["ci_low"], one["ci_high"])
                for n, one in _choices(sizes, importance)
                if math.isfinite(one["ci_low"] + one["ci_high"])
            ],
            has_dots=True,
        )
        for importance, color in COLORS.items()
    ]
    label = "Perplexity on held-out rows by the number of layers removed"
    return line_chart(
        series, label=label, x_label="layers removed", may_be_log=True, x_is_whole=True
    )


def _cost(sizes: Sequence[Mapping[str, Any]]) -> Markup:
    """Parameters and FLOPs, in percent of the whole model's."""
    whole = sizes[0]
    series = [
        Series(
            name,
            color,
            [(float(one["num_removed"]), 100 * one[key] / whole[key]) for one in sizes],
            has_dots=True,
        )
        for name, key, color in (
            ("parameters", "parameters", "teacher-0"),
            ("FLOPs per token", "flops_per_token", "other-1"),
        )
    ]
    label = "Parameters and FLOPs per token in percent, by the number of layers removed"
    return line_chart(series, label=label, x_label="layers removed", has_zero=True, x_is_whole=True)


def _choices(
    sizes: Sequence[Mapping[str, Any]], importance: str
) -> list[tuple[int, Mapping[str, Any]]]:
    return [
        (size["num_removed"], one)
        for size in sizes
        for one in size["choices"]
        if one["importance"] == importance
    ]
