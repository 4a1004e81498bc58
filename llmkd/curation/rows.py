"""What a row asks and answers, whichever columns it has, and which rows answer the same prompt."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from llmkd.curation.tally import Row, StepError
from llmkd.errors import DataError

NUMBER = "number"
"""The column with the prompt's number in the data that a generate stage read, from 0."""


def has_answer(row: Mapping[str, Any]) -> bool:
    """Whether a row's `messages` end with the assistant's turn."""
    messages = row.get("messages")
    return bool(messages) and messages[-1].get("role") == "assistant"


def answer_of(row: Row) -> str | None:
    """What was answered; of plain text, all of it. None of a row that only asks."""
    if "messages" in row:
        return row["messages"][-1].get("content") if has_answer(row) else None
    return row.get("completion", row.get("text"))


def completion_of(row: Row) -> str:
    """What was answered; of plain text, all of it.

    Raises:
        StepError: The row has no answer.
    """
    text = answer_of(row)
    if isinstance(text, str):
        return text
    raise StepError(
        "kind",
        f"a row has no answer: its columns are {', '.join(row)}; write rows with `completion`, with "
        "`messages` that end with the assistant's turn, or with `text`",
    )


def with_completion(row: Row, text: str) -> Row:
    """The row with another answer."""
    if "messages" in row:
        turns = row["messages"][:-1] if has_answer(row) else row["messages"]
        return row | {"messages": [*turns, {"role": "assistant", "content": text}]}
    return row | {("completion" if "prompt" in row else "text"): text}


def without_completion(row: Row) -> Row:
    """The row as something to be asked."""
    if "messages" in row:
        return row | {"messages": row["messages"][:-1] if has_answer(row) else row["messages"]}
    return {column: value for column, value in row.items() if column != "completion"}


def question_of(row: Mapping[str, Any]) -> str:
    """What was asked, without what a system message says of how to answer; empty of plain text."""
    asked = row.get("messages", row.get("prompt", ""))
    if isinstance(asked, str):
        return asked
    turns = asked[:-1] if "messages" in row and has_answer(row) else asked
    said = [str(turn.get("content")) for turn in turns if turn.get("role") != "system"]
    return said[0] if len(said) == 1 else json.dumps(said)


def whole_text(row: Row) -> str:
    """Question and answer, with a mark between them that no text has; the answer may be missing."""
    return f"{question_of(row)}\0{answer_of(row) or ''}"


def prompt_key(row: Row) -> str:
    """What rows of one prompt share: the question, or all of a plain text."""
    return question_of(row) or str(row.get("text"))


def grouped(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows that follow each other and answer one prompt: of one question, and one number if any.

    Only the answers to one prompt are in memory at a time.
    """
    for _, group in groupby(rows, lambda row: (row.get(NUMBER), prompt_key(row))):
        yield list(group)


def column(row: Row, name: str, field: str) -> Any:
    """A column's value.

    Args:
        row: The row.
        name: The column.
        field: The step's field that names it.

    Raises:
        StepError: There is no such column.
    """
    if name not in row:
        raise StepError(
            field,
            f"the rows have no column `{name}`, but {', '.join(row)}; write one of these, or "
            "name it in the generate stage's keep_columns",
        )
    return row[name]


def line_of(row: Row) -> bytes:
    """The row as a line of JSON."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # Half a surrogate pair, which only JSON's own escapes can hold.
        return json.dumps(row).encode() + b"\n"
    except TypeError as error:
        raise DataError("dataset_name", f"{error}; leave that column out of the rows") from error
