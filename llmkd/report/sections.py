"""The charts and tables of the page's sections, from what the stages wrote."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmkd.evaluation.metric_names import is_share
from llmkd.recipe.data import LabelledRows, SequenceLengths
from llmkd.recipe.schema import TrainStage
from llmkd.report.bar_chart import binned, histogram
from llmkd.report.formats import measured
from llmkd.report.interval_chart import Whisker, interval_chart
from llmkd.report.line_chart import Mark, Series, line_chart
from llmkd.report.run_files import RunFiles, StageRun
from llmkd.report.stage_files import DataCounts, Details, Lengths, Reliability
from llmkd.report.verdict import Group


@dataclass(frozen=True)
class Figure:
    """A chart under its title, with a line below it."""

    title: str
    chart: Markup
    caption: str = ""


@dataclass(frozen=True)
class DataSection:
    """What a train stage trained on."""

    stage: str
    counts: DataCounts
    chart: Markup | None
    caption: str = ""


def verdict_chart(group: Group, colors: Mapping[str, str]) -> Markup:
    """Dots and whiskers of one metric."""
    rows = [
        Whisker(
            row.model,
            colors.get(row.model, "other-0"),
            measured(row.value, group.metric),
            row.value,
            row.low,
            row.high,
            row.each,
        )
        for row in group.rows
    ]
    label = "; ".join(f"{row.name}: {row.text}" for row in rows)
    return interval_chart(
        rows,
        label=f"{group.task}, {group.metric}. {label}",
        is_percent=is_share(group.metric),
    )


def answer_figures(details: Details, colors: Mapping[str, str]) -> list[Figure]:
    """How long answers are and how sure models were, task by task."""
    return [*_lengths(details.lengths, colors), *_reliability(details.reliability, colors)]


def _lengths(lengths: Sequence[Lengths], colors: Mapping[str, str]) -> list[Figure]:
    figures = []
    for task in dict.fromkeys(item.task for item in lengths):
        of_task = [item for item in lengths if item.task == task and item.counts]
        if not of_task:
            continue
        edge = max(tokens for item in of_task for tokens, _ in item.counts)
        bars = [
            (item.model, colors.get(item.model, "other-0"), binned(item.counts, edge))
            for item in of_task
        ]
        label = f"Length of answers to {task}"
        chart = histogram(bars, label=label, x_label="tokens")
        caption = "Mean tokens: " + "; ".join(f"{i.model} {_mean(i.counts):.1f}" for i in of_task)
        figures.append(Figure(f"{task}: answers by length", chart, caption))
    return figures


def _reliability(reliability: Sequence[Reliability], colors: Mapping[str, str]) -> list[Figure]:
    figures = []
    for task in dict.fromkeys(item.task for item in reliability):
        of_task = [item for item in reliability if item.task == task]
        of_task = [item for item in of_task if item.calibration_error is not None]
        if not of_task:
            continue
        lines = [
            Series(
                item.model,
                colors.get(item.model, "other-0"),
                [(confidence, accuracy) for confidence, accuracy, _ in item.points],
                has_dots=True,
            )
            for item in of_task
        ]
        caption = "; ".join(f"{item.model} {item.calibration_error:.3f}" for item in of_task)
        label = f"Accuracy against confidence on {task}; expected calibration error: {caption}"
        chart = line_chart(lines, label=label, x_label="confidence", unit_square=True)
        figures.append(
            Figure(
                f"{task}: accuracy by confidence", chart, f"Expected calibration error: {caption}"
            )
        )
    return figures


def data_sections(run: RunFiles, colors: Mapping[str, str]) -> list[DataSection]:
    """What each train stage trained on, where it says so."""
    return [
        DataSection(
            name,
            stage.data,
            _length_histogram(stage, colors.get(name, "other-0")),
            _caption(stage),
        )
        for name, stage in run.stages.items()
        if isinstance(stage.stage, TrainStage) and stage.data != DataCounts()
    ]


def _length_histogram(run: StageRun, color: str) -> Markup | None:
    bars = length_bars(run.data.lengths)
    # Rows of one length, as a task's are, need no picture.
    if len(bars) < 2:
        return None
    limit = _max_length(run)
    mark = None
    if limit is not None and not _caption(run):
        mark = Mark(limit, f"max_length {limit:,}")
    label = f"Lengths of {run.name}'s rows before cutting"
    return histogram(
        [(run.name, color, bars)], label=label, x_label="tokens", mark=mark, is_wide=True
    )


def length_bars(lengths: Sequence[tuple[int, int]]) -> list[tuple[float, float, float]]:
    """Bars from upper edges, of which those without rows are not written.

    Edges grow by half a power of two (`llmkd.data.counts`), so a bar begins at the edge before it,
    and where that is further down than a factor of sqrt(2), edges are missing in between.
    """
    bars: list[tuple[float, float, float]] = []
    for high, rows in sorted(lengths):
        low = high / math.sqrt(2)
        if bars and bars[-1][1] >= 0.9 * low:
            low = bars[-1][1]
        elif bars:
            bars.append((bars[-1][1], low, 0.0))
        bars.append((low, float(high), float(rows)))
    return [bar for bar in bars if bar[0] < bar[1]]


def _max_length(run: StageRun) -> int | None:
    """The longest sequence that the stage takes; None for a task, which has no limit."""
    data = run.stage.data if isinstance(run.stage, TrainStage) else None
    return data.max_length if isinstance(data, SequenceLengths | LabelledRows) else None


def _caption(run: StageRun) -> str:
    """Where `max_length` lies, if a line there would leave the rows no room, or mean nothing."""
    limit, edges = _max_length(run), [edge for edge, rows in run.data.lengths if rows]
    if limit is None:
        return ""
    if limit > 2 * max(edges, default=limit):
        return f"max_length {limit:,} is far beyond them"
    # Cut rows are only longer than that where an encoder and a decoder read a side each.
    if (run.data.longest or 0) > limit:
        return f"prompt and completion together; max_length {limit:,} is for each"
    return ""


def _mean(counts: Sequence[tuple[int, int]]) -> float:
    total = sum(number for _, number in counts)
    return sum(tokens * number for tokens, number in counts) / total if total else 0.0
