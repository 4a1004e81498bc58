"""Columns that go along with a prompt into what a generate stage writes. Imports no torch."""

import json
from collections.abc import Mapping
from typing import Any

from llmkd.errors import DataError
from llmkd.recipe.data import NamedIntentPrompts, PromptRows, PromptTask

KEPT = "kept"
"""What the columns are called together, as JSON, in rows on their way and in the cache."""


def names_to_keep(source: object) -> list[str]:
    """The `keep_columns` of a generate stage's data; of anything else there are none."""
    is_asked = isinstance(source, PromptRows | PromptTask | NamedIntentPrompts)
    return source.keep_columns if is_asked else []


def kept_columns(row: Mapping[str, Any], number: int, source: object) -> dict[str, str]:
    """`{"kept": JSON}` of a row; nothing where no columns are kept.

    Args:
        row: As the data set has it.
        number: Its own, from 1.
        source: The recipe's `data`.

    Raises:
        DataError: A column is not there, or is no JSON.
    """
    names = names_to_keep(source)
    if not names:
        return {}
    missing = ", ".join(f"`{name}`" for name in names if name not in row)
    if missing:
        there = ", ".join(map(str, row)) or "none"
        raise DataError(
            "keep_columns",
            f"row {number} has no {missing}; its columns are {there}; write some of these",
        )
    return {KEPT: _as_json({name: row[name] for name in names}, number)}


def _as_json(columns: dict[str, Any], number: int) -> str:
    try:
        text = json.dumps(columns, ensure_ascii=False, allow_nan=False)
        # Half a surrogate pair cannot be written to a file.
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            "keep_columns",
            f"row {number}: {', '.join(columns)}: no JSON ({error}); write it as JSON in the data "
            "set, or leave it out of keep_columns",
        ) from error
    return text
