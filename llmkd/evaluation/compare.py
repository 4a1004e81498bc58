"""Runs of one recipe with different seeds, side by side: what holds over seeds, and what does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmkd.errors import InputError
from llmkd.evaluation.metric_names import is_share
from llmkd.evaluation.results import Record, read_results
from llmkd.evaluation.statistics import Interval, paired_difference, t_interval


@dataclass(frozen=True)
class Row:
    """One model on one metric over all runs. Shares are between 0 and 1."""

    task: str
    metric: str
    model: str
    values: list[float]
    """One per run, in the order of `seeds`."""
    seeds: list[int]
    mean: float
    ci_low: float
    """Lower end of the 95 % t-interval of the mean over runs."""
    ci_high: float
    difference: float | None = None
    """Mean paired difference to the baseline; None for the baseline itself, without one, or where
    it was not measured."""
    difference_low: float | None = None
    difference_high: float | None = None
    is_claim: bool | None = None
    """Whether the difference has one sign in all runs and an interval without 0."""
    suite: str = ""
    """Tells tasks of one name apart."""


def compare_runs(folders: Sequence[Path], baseline: str | None = None) -> list[Row]:
    """Means over runs, with differences to the baseline paired by seed.

    Args:
        folders: Run folders, one per seed; at least two.
        baseline: The model that the others are compared with.

    Raises:
        InputError: Fewer than two runs, a seed twice, or runs that measured different things.
    """
    return compare_records(
        {folder: read_results(folder / "results.json") for folder in folders}, baseline
    )


def compare_records(
    runs: Mapping[Path, Sequence[Record]], baseline: str | None = None
) -> list[Row]:
    """As `compare_runs`, of results that are read already."""
    seeds = [_seed_of(folder, records) for folder, records in runs.items()]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise InputError(
            f"RUNS: seeds {', '.join(map(str, seeds))}; name at least two run folders with "
            "different seeds (llmkd train RECIPE seed=1 output_dir=...)"
        )
    tables = [{_key(record): record.value for record in records} for records in runs.values()]
    if any(table.keys() != tables[0].keys() for table in tables):
        raise InputError("RUNS: they measured different models or tasks; name runs of one recipe")
    models = dict.fromkeys(model for *_, model in tables[0])
    if baseline is not None and baseline not in models:
        raise InputError(f"--baseline: no model {baseline}; write one of {', '.join(models)}")
    return [_row(key, tables, seeds, baseline) for key in tables[0]]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, shares in percent and their differences in percentage points."""
    has_difference = any(row.difference is not None for row in rows)
    header = ["task", "metric", "model", "each run", "mean [95 % over seeds]"]
    lines = [header + ["difference to baseline"] * has_difference]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        interval = Interval(row.mean, row.ci_low, row.ci_high)
        cells = [row.task, row.metric, row.model, _each(row), _shown(interval, row.metric)]
        lines.append(cells + [_difference(row)] * has_difference)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(
    key: tuple[str, str, str, str],
    tables: Sequence[dict[tuple[str, str, str, str], float]],
    seeds: list[int],
    baseline: str | None,
) -> Row:
    suite, task, metric, model = key
    values = [table[key] for table in tables]
    mean = t_interval(values)
    ends = (mean.value, mean.low, mean.high)
    row = Row(task, metric, model, values, seeds, *ends, suite=suite)
    if baseline is None or baseline == model or (suite, task, metric, baseline) not in tables[0]:
        return row
    others = [table[suite, task, metric, baseline] for table in tables]
    found = paired_difference(values, others)
    return replace(
        row,
        difference=found.interval.value,
        difference_low=found.interval.low,
        difference_high=found.interval.high,
        is_claim=found.is_claim,
    )


def _key(record: Record) -> tuple[str, str, str, str]:
    return record.suite, record.task, record.metric, record.model


def _seed_of(folder: Path, records: Sequence[Record]) -> int:
    seeds = {record.seed for record in records}
    if len(seeds) != 1:
        raise InputError(f"{folder}: results of {len(seeds)} seeds; name folders of single runs")
    return seeds.pop()


def _each(row: Row) -> str:
    factor = 100 if is_share(row.metric) else 1
    return ", ".join(f"{factor * value:.4g}" for value in row.values)


def _shown(interval: Interval, metric: str, sign: str = "", share_unit: str = " %") -> str:
    factor, unit, form = (
        (100, share_unit, f"{sign}.1f") if is_share(metric) else (1, "", f"{sign}.4g")
    )
    numbers = (f"{factor * x:{form}}" for x in (interval.value, interval.low, interval.high))
    return "{}{unit} [{}, {}]".format(*numbers, unit=unit)


def _difference(row: Row) -> str:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return "-"
    interval = Interval(row.difference, row.difference_low, row.difference_high)
    verdict = "" if row.is_claim else " (not a claim)"
    # Points, for 60 % is 50 % more than 40 %.
    return _shown(interval, row.metric, "+", " points") + verdict
