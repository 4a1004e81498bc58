"""Results: records of what was measured, results.json, and a table for people."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from llmkd.errors import InputError
from llmkd.evaluation.metric_names import is_share
from llmkd.evaluation.short_names import short_names
from llmkd.run_folder import write_atomically

KEY = ("suite", "task", "metric", "model")
BOUNDS = ("value", "ci_low", "ci_high")


@dataclass(frozen=True)
class Record:
    """One number with its interval. The fields are a public contract: see results.json."""

    model: str
    """The stage's name, or the path given."""
    suite: str
    task: str
    metric: str
    """Such as `accuracy` (0 to 1), `loss_per_token` (nats) or `perplexity`."""
    value: float
    ci_low: float
    """Lower end of the 95 % bootstrap interval over examples."""
    ci_high: float
    num_examples: int
    """What the interval was resampled over: rows, or windows where rows were joined."""
    seed: int


def write_results(path: Path, records: Sequence[Record]) -> None:
    """Writes results.json, whole or not at all; a number that is not finite is null."""
    content = without_nan([asdict(record) for record in records])
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def without_nan(value: Any) -> Any:
    """Plain data as JSON can hold it: null in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_results(path: Path) -> list[Record]:
    """Reads results.json.

    Raises:
        InputError: The file is missing or holds something else.
    """
    try:
        return [_record(content) for content in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path}: no results ({error}); write the path of a results.json, or make one with "
            "`llmkd eval`"
        ) from error


def check_replaceable(path: Path) -> None:
    """Results may replace results, and no other file.

    Raises:
        InputError: Something else is there, or nothing can be written there.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; write a file, such as {path / 'results.json'}")
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"{path}: is there already and is no file; write another path")
    if path.exists():
        try:
            read_results(path)
        except InputError as error:
            raise InputError(
                f"{path}: is there already and is no results.json of llmkd; write another file"
            ) from error
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: nothing can be written in {folder}; write another path")


def _record(content: Any) -> Record:
    if not isinstance(content, dict):
        raise TypeError("a record is no object")
    return Record(**{key: _as_field(key, value) for key, value in content.items()})


def _as_field(key: str, value: Any) -> Any:
    """The value in its field's type; null is a number that was not finite."""
    if key in ("value", "ci_low", "ci_high"):
        if value is None:
            return math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise TypeError(f"{key}: no number")
    kind = int if key in ("num_examples", "seed") else str
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key}: no {'whole number' if kind is int else 'text'}")
    return value


def results_table(
    records: Sequence[Record], differences: Sequence[Mapping[str, Any]] = ()
) -> Table:
    """A table with a group of rows per suite, task and metric, and a row per model in each.

    Args:
        records: What was measured.
        differences: Of models to the first one, as `details.json` has them.
    """
    found = {tuple(one[name] for name in KEY): one for one in differences}
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.suite, record.task, record.metric), []).append(record)
    names = short_names(dict.fromkeys(record.model for record in records))
    table = Table("task")
    table.add_column("metric", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("value [95 % interval]", justify="right", overflow="fold")
    table.add_column("examples", justify="right")
    if found:
        baseline = names.get(differences[0]["baseline"], "the first")
        table.add_column(f"less {baseline}", justify="right", overflow="fold")
    for (_, task, metric), members in groups.items():
        for i, record in enumerate(members):
            head = (task, metric) if i == 0 else ("", "")
            cells = [*head, names[record.model], shown(record), f"{record.num_examples:,}"]
            if found:
                key = tuple(getattr(record, name) for name in KEY)
                cells.append(shown_difference(found.get(key)))
            # As text: rich would take brackets in a name for markup.
            table.add_row(*map(Text, cells))
        table.add_section()
    return table


def shown(record: Record) -> str:
    """`value [low, high]`, in percent where the metric is a share."""
    numbers = (record.value, record.ci_low, record.ci_high)
    if is_share(record.metric):
        return "{:.1f} % [{:.1f}, {:.1f}]".format(*(100 * number for number in numbers))
    if numbers[1] == numbers[2] == numbers[0]:
        return number_text(record.value)
    return "{} [{}, {}]".format(*map(number_text, numbers))


def number_text(value: float) -> str:
    """Four digits, or all of a count: `1.514`, `260,032`."""
    is_count = math.isfinite(value) and abs(value) >= 10_000
    return f"{value:,.0f}" if is_count else f"{value:.4g}"


def shown_difference(difference: Mapping[str, Any] | None) -> str:
    """`+value [low, high] word`, in percentage points where the metric is a share."""
    if difference is None:
        return "-"
    numbers = [math.nan if (one := difference[name]) is None else one for name in BOUNDS]
    if is_share(difference["metric"]):
        text = "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*(100 * number for number in numbers))
    else:
        signs = ("+" if number > 0 else "" for number in numbers)
        shown = [sign + number_text(one) for sign, one in zip(signs, numbers, strict=True)]
        text = "{} [{}, {}]".format(*shown)
    return f"{text} {difference['verdict']}"
