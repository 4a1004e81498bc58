"""Rows of local files in the place of the hub data set that a task of lm-eval names."""

import json
from collections.abc import Mapping
from typing import Any

import datasets
import pyarrow

from llmkd.data.files import raw_rows
from llmkd.errors import DataError
from llmkd.recipe.data import DatasetFiles
from llmkd.recipe.harness import HarnessRows

ROWS, FEWSHOT = "rows", "fewshot"
"""What lm-eval is told that the splits are called."""

LABEL = "label"
"""A column whose numbers may be written as text, as exports of a hub's class labels often have them."""

Row = dict[str, Any]


def read_splits(source: HarnessRows) -> dict[str, datasets.Dataset]:
    """The rows to measure, and those for few-shot examples where they have a file of their own.

    Rows that are measured are left out of the few-shot examples.

    Raises:
        DataError: A file has no rows, lacks a column, or has one of several types.
        InputError: A file cannot be read.
    """
    assert source.dataset_name is not None
    rows = _read(source.dataset_name, source.columns, "dataset_name")
    splits = {ROWS: _as_data_set(rows, source.dataset_name)}
    if source.fewshot_name is not None:
        solved = _read(source.fewshot_name, source.columns, "fewshot_name")
        measured = {_written_out(row) for row in rows}
        others = [row for row in solved if _written_out(row) not in measured]
        if not others:
            raise DataError(
                "fewshot_name",
                f"{source.fewshot_name}: every row is among those that are measured; name another file",
            )
        splits[FEWSHOT] = _as_data_set(others, source.fewshot_name)
    return splits


def _written_out(row: Row) -> str:
    """A row as something that can be looked up."""
    return json.dumps(row, sort_keys=True, default=str)


def _read(path: str, columns: Mapping[str, str], field: str) -> list[Row]:
    rows = list(raw_rows(DatasetFiles(dataset_name=path), None))
    if not rows:
        raise DataError(field, f"{path}: the data set is empty; name one with rows")
    missing = [
        f"{name}: {written}" for name, written in columns.items() if not _has(rows[0], written)
    ]
    if missing:
        raise DataError(
            "columns",
            f"{path} has no column for {', '.join(missing)}; its columns are {', '.join(rows[0])}",
        )
    # A file's own column of the task's name gives way to the one that is named.
    return [row | {name: at(row, written) for name, written in columns.items()} for row in rows]


def _has(row: Row, written: str) -> bool:
    if written in row:
        return True
    outer, dot, inner = written.partition(".")
    inside = row.get(outer)
    return bool(dot) and isinstance(inside, dict) and _has(inside, inner)


def at(row: Row, written: str) -> Any:
    """The value of a column, of which `a.b` is the field `b` of the column `a`; None without one."""
    if written in row:
        return row[written]
    outer, _, inner = written.partition(".")
    inside = row.get(outer)
    return at(inside, inner) if isinstance(inside, dict) and inner else None


def _as_data_set(rows: list[Row], path: str) -> datasets.Dataset:
    # datasets itself would take the columns of the first row alone.
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in names}
    if all(isinstance(label, str) and label.isdecimal() for label in columns.get(LABEL, [None])):
        columns[LABEL] = [int(label) for label in columns[LABEL]]
    try:
        return datasets.Dataset.from_dict(columns)
    except pyarrow.ArrowException as error:
        raise DataError(
            "dataset_name",
            f"{path}: a column holds values of several types ({error}); write one type in each",
        ) from None
