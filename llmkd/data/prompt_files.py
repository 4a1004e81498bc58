"""Prompts that are written in a file, with places for a row's columns. Imports no torch."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmkd.errors import DataError
from llmkd.recipe.local_paths import expanded
from llmkd.recipe.shipped import beside_recipes

_NAME = r"[^\W\d]\w*"
_PLACE = re.compile(rf"\{{\{{({_NAME})\}}\}}|\{{({_NAME})\}}")
_IS_EMPTY = object()


@dataclass(frozen=True)
class PromptFile:
    """A prompt with places.

    `{name}` stands for the row's column of that name, and `{{name}}` for the text `{name}`. A name is
    letters, digits and `_`, and begins with no digit. Braces around anything else are as they are.
    """

    path: str
    text: str

    @property
    def columns(self) -> list[str]:
        """The columns that it has places for, each once."""
        return list(dict.fromkeys(name for _, name in _PLACE.findall(self.text) if name))

    def filled(self, row: Mapping[str, Any], number: int, dataset: str) -> str:
        """The prompt with a row's columns: text as it is, anything else as JSON.

        Args:
            row: As the data set has it.
            number: Its own, from 1.
            dataset: The data set's name.

        Raises:
            DataError: The row lacks a column, or has none of a value in it.
        """
        texts = {name: self._text(name, row, number, dataset) for name in self.columns}
        # In one go: braces in what a place is filled with are no places.
        return _PLACE.sub(lambda found: texts.get(found[2], f"{{{found[1]}}}"), self.text)

    def _text(self, name: str, row: Mapping[str, Any], number: int, dataset: str) -> str:
        value = row.get(name, _IS_EMPTY)
        if value is _IS_EMPTY:
            raise DataError(
                "prompt_file",
                f"{self.path} has a place {{{name}}}, and row {number} of {dataset} no such column; "
                f"its columns are {', '.join(map(str, row)) or 'none'}; write one of these, or "
                f"{{{{{name}}}}} where {{{name}}} itself is meant",
            )
        if value is None:
            raise DataError(
                "prompt_file",
                f"{self.path} has a place {{{name}}}, and `{name}` is null in row {number} of "
                f"{dataset}; write it there, or leave the row out",
            )
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_prompt_file(path: str) -> PromptFile:
    """Reads a prompt; the line break that ends the file is no part of it.

    Args:
        path: From the current folder; `prompts/NAME.txt` may be a shipped one.

    Raises:
        DataError: It cannot be read, or has no place.
    """
    try:
        text = expanded(beside_recipes(path)).read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "prompt_file", f"{path} cannot be read ({error}); write the path of a UTF-8 text file"
        ) from error
    found = PromptFile(path, text)
    if not found.columns:
        raise DataError(
            "prompt_file",
            f"{path} has no place for a column, so that every row would ask the same; write one, "
            "such as {question}",
        )
    return found


def with_prompts(
    rows: Iterable[dict[str, Any]], path: str, dataset: str
) -> Iterator[dict[str, Any]]:
    """Rows whose `prompt` is that of a file, in place of any `messages`.

    Args:
        rows: With the columns that the file has places for.
        path: The file.
        dataset: What errors call the rows.

    Raises:
        DataError: A row lacks a column that the file has a place for.
    """
    file = read_prompt_file(path)
    for number, row in enumerate(rows, 1):
        others = {name: value for name, value in row.items() if name != "messages"}
        yield others | {"prompt": file.filled(row, number, dataset)}
