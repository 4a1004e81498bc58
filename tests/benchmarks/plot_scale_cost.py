"""Draws the curves of bench_scale_cost.py, with the charts of the report.

python tests/benchmarks/plot_scale_cost.py [--input FILE] [--output FILE]
"""

import argparse
import json
from pathlib import Path
from typing import Any

from circumstances import RESULTS, ROOT
from markupsafe import Markup

from llmkd.report.line_chart import HEIGHT, LEFT, WIDTH, Series, line_chart
from llmkd.report.svg import element

X_LABELS = {
    "tokens": "tokens per step",
    "vocabulary": "tokens of vocabulary",
    "teacher": "teacher's hidden size",
    "processes": "processes (DDP)",
}
TITLES = ("ms per step: median, p20 to p80", "MiB of a process at most")
TITLE_HEIGHT, GAP = 26.0, 14.0
# The report's light colours: an image in a page has no style sheet but its own. Pages show it smaller.
STYLE = """
text { font-family: system-ui, sans-serif; fill: #5b6470; font-size: 15px }
.title { font-size: 19px; fill: #1f2430 }
.grid { stroke: #e4e7ec } .axis { stroke: #5b6470; opacity: 0.6 }
.line { fill: none; stroke: #0072b2; stroke-width: 1.8 }
.band { fill: #0072b2; opacity: 0.13 } .dot { fill: #0072b2; stroke: #fff; stroke-width: 1.2 }
"""


def time_line(name: str, points: list[dict[str, Any]]) -> Series:
    band = [(p[name], 1e3 * p["step_s"]["p20"], 1e3 * p["step_s"]["p80"]) for p in points]
    middle = [(p[name], 1e3 * p["step_s"]["median"]) for p in points]
    return Series(TITLES[0], "", middle, band=band, has_dots=True)


def memory_line(name: str, points: list[dict[str, Any]]) -> Series:
    return Series(TITLES[1], "", [(p[name], p["peak_mib"]) for p in points], has_dots=True)


def drawn(curves: dict[str, list[dict[str, Any]]]) -> Markup:
    """One column for each curve, seconds above memory."""
    parts = [element("style", STYLE), element("rect", width="100%", height="100%", fill="#ffffff")]
    for row, (title, line) in enumerate(zip(TITLES, (time_line, memory_line), strict=True)):
        top = row * (TITLE_HEIGHT + HEIGHT + GAP)
        parts.append(element("text", title, x=LEFT, y=top + 18, class_="title"))
        for column, (name, x_label) in enumerate(X_LABELS.items()):
            chart = line_chart(
                [line(name, curves[name])], label=f"{title} against {x_label}", x_label=x_label,
                has_zero=True, x_from_zero=name != "processes", x_is_whole=True,
            )  # fmt: skip
            place = {"x": column * (WIDTH + GAP), "y": top + TITLE_HEIGHT}
            parts.append(element("svg", chart, width=WIDTH, height=HEIGHT, **place))
    width = len(X_LABELS) * (WIDTH + GAP)
    height = len(TITLES) * (TITLE_HEIGHT + HEIGHT + GAP)
    return element(
        "svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img", aria_label="Step time and memory against tokens, vocabulary, teacher, processes",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, default=RESULTS / "scale_cost_cpu.json")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "scaling_cost.svg")
    args = parser.parse_args()
    args.output.write_text(drawn(json.loads(args.input.read_text())["curves"]) + "\n")


if __name__ == "__main__":
    main()
