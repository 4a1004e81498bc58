"""What data sets of questions call their columns. Imports no torch."""

from collections.abc import Mapping
from typing import Any, get_args

from llmkd.errors import DataError
from llmkd.recipe.reasoning import Grader, QuestionColumn, QuestionRows

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "problem", "question_concat"),
    "answer": ("answer", "answerKey", "final_ans", "Answer"),
    "choices": ("choices",),
    "labels": ("labels",),
}
"""What public data sets call the columns, in order of preference."""


def written_names(source: QuestionRows) -> set[str]:
    """What the data set may call the columns that are looked for."""
    usual = {name for names in USUAL_NAMES.values() for name in names}
    return usual | set(source.columns.values())


def columns_of(
    row: Mapping[str, Any], source: QuestionRows, grader: Grader
) -> dict[QuestionColumn, str | None]:
    """What a data set calls each column; None stands for one that is not there, nor needed.

    Args:
        row: One of its rows.
        source: Its `columns` are taken as they are written.
        grader: `multiple_choice` needs choices.

    Raises:
        DataError: One that is needed, or named, is not there.
    """
    needed = {"question", "answer"}
    if grader == "multiple_choice" and source.choices is None:
        needed.add("choices")
    return {
        column: _column(row, column, source, is_needed=column in needed)
        for column in get_args(QuestionColumn)
    }


def _column(
    row: Mapping[str, Any], column: QuestionColumn, source: QuestionRows, *, is_needed: bool
) -> str | None:
    written = source.columns.get(column)
    usual = (written,) if written is not None else USUAL_NAMES[column]
    found = next((name for name in usual if name in row), None)
    if found is None and (is_needed or written is not None):
        there = ", ".join(map(str, row)) or "none"
        raise DataError(
            "columns",
            f"{source.dataset_name} has no column {' or '.join(usual)} for {column}; its columns are "
            f"{there}; write columns: {{{column}: NAME}}, or --columns TASK.{column}=NAME",
        )
    return found
