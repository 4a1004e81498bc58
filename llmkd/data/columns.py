"""Which columns of a data set are taken, and under which names. Imports no torch."""

from collections.abc import Mapping
from typing import Any, Literal

from llmkd.data.kept_columns import names_to_keep
from llmkd.data.prompt_files import read_prompt_file
from llmkd.errors import DataError
from llmkd.recipe.data import DatasetRows, LabelledRows, PromptRows

Source = DatasetRows | LabelledRows

Need = Literal["example", "rationale", "prompt", "scored", "labelled", "texts"]

COLUMNS: dict[Need, list[tuple[str, ...]]] = {
    "example": [("messages",), ("prompt", "completion"), ("text",)],
    "rationale": [("prompt", "completion", "rationale")],
    "prompt": [("messages",), ("prompt",)],
    "scored": [("text",), ("messages",), ("prompt", "completion")],
    "labelled": [("text", "text_pair", "label"), ("text", "label")],
    "texts": [("text", "text_pair"), ("text",)],
}
"""What a row may have, in order of preference."""


def written_names(source: Source, need: Need) -> set[str]:
    """What the data set may call the columns that are needed.

    Raises:
        DataError: The source's `prompt_file` cannot be read.
    """
    kept = set(names_to_keep(source))
    if isinstance(source, PromptRows) and source.prompt_file is not None:
        return kept | set(read_prompt_file(source.prompt_file).columns)
    renamed = _renamed(source)
    return kept | {renamed.get(name, name) for choice in COLUMNS[need] for name in choice}


def choose(row: Mapping[str, Any], source: Source, need: Need) -> dict[str, str]:
    """From llmkd's name of each column that is taken to the data set's.

    Args:
        row: The first one; it tells which columns there are.
        source: Its `columns` rename, and are preferred where they name one of a choice.
        need: What the rows are for.

    Raises:
        DataError: A column is not there.
    """
    renamed = _renamed(source)
    there = ", ".join(map(str, row)) or "none"
    missing = [f"{key}: {written}" for key, written in renamed.items() if written not in row]
    if missing:
        raise DataError(
            "columns",
            f"{source.dataset_name} has no column for {', '.join(missing)}; its columns are {there}",
        )
    for choice in sorted(COLUMNS[need], key=lambda choice: not renamed.keys() & set(choice)):
        chosen = {name: renamed.get(name, name) for name in choice}
        if row.keys() >= set(chosen.values()):
            return _as_messages(row, chosen) if need == "prompt" else chosen
    wanted = ", or ".join(" and ".join(f"`{c}`" for c in choice) for choice in COLUMNS[need])
    raise DataError(
        "columns" if renamed else "dataset_name",
        f"{source.dataset_name}: the columns are {there}; rename them to {wanted}, or say which is "
        f"which by columns: {{{COLUMNS[need][0][0]}: NAME}}",
    )


def _as_messages(row: Mapping[str, Any], chosen: dict[str, str]) -> dict[str, str]:
    # As in TRL, a `prompt` may be a conversation.
    is_conversation = "prompt" in chosen and isinstance(row[chosen["prompt"]], list)
    return {"messages": chosen["prompt"]} if is_conversation else chosen


def refuse_late_pair(
    row: Mapping[str, Any], number: int, source: Source, chosen: Mapping[str, str]
) -> None:
    """Refuses a second text where the first row had none, as it would not be read.

    Args:
        row: A row of labelled data.
        number: Its own, from 1.
        source: The data set.
        chosen: From `choose`.

    Raises:
        DataError: The row has one.
    """
    is_labelled = isinstance(source, LabelledRows)
    if is_labelled and "text_pair" not in chosen and row.get("text_pair"):
        raise DataError(
            "dataset_name",
            f"{source.dataset_name}: row {number} has a `text_pair`, and the first row has none; "
            "write one in all rows, or in none",
        )


def _renamed(source: Source) -> dict[str, str]:
    return dict(source.columns.items())
