"""Rows that can be used: with exactly the columns that the caller needs, every value checked.

Of what a data set holds, `messages` are taken first, then `prompt` and `completion`, then `text`,
unless the recipe's `columns` name one of them; other columns are dropped.
"""

import re
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

import datasets

from llmkd.data.columns import Need, choose, refuse_late_pair, written_names
from llmkd.data.files import raw_rows
from llmkd.data.kept_columns import kept_columns
from llmkd.data.labels import wanted_label
from llmkd.data.prompt_files import with_prompts
from llmkd.data.stored import store_rows
from llmkd.data.tasks import make_rows
from llmkd.errors import DataError, InputError
from llmkd.recipe.data import (
    AdditionTask,
    CompletionTask,
    DatasetRows,
    LabelledRows,
    PromptRows,
    StoreRows,
    Task,
)

Row = dict[str, Any]
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")

_OF_TASK: dict[Need, dict[str, str]] = {
    "example": {"prompt": "prompt", "completion": "completion"},
    "rationale": {"prompt": "prompt", "completion": "completion", "rationale": "rationale"},
    "scored": {"prompt": "prompt", "completion": "completion"},
    "prompt": {"prompt": "prompt"},
    "labelled": {"text": "text", "label": "label"},
    "texts": {"text": "text"},
}


def load_rows(source: Task | DatasetRows, *, seed: int, need: Need = "example") -> datasets.Dataset:
    """All rows at once; see `iter_rows`."""
    return datasets.Dataset.from_list(list(iter_rows(source, seed=seed, need=need)))


def iter_rows(
    source: Task | DatasetRows | LabelledRows | StoreRows,
    *,
    seed: int,
    need: Need = "example",
    is_stream: bool = False,
) -> Iterator[Row]:
    """Rows with the columns that the caller needs, ready to be tokenized.

    Args:
        source: A data set or a procedural task, with `stage:NAME` already replaced by a path.
        seed: Decides which sums a procedural task makes; a data set is read as it is.
        need: `example` is `messages`, or `prompt` and `completion`, or else `text`; `scored` is the
            same with `text` first; `prompt` is `messages`, or else the prompt alone; `labelled` is
            `text`, `text_pair` where it is there, and `label`; `texts` is the same without the label;
            `rationale` is `prompt` and `completion`, `rationale` which may be None, and `bare_prompt`
            without `prompt_prefix`.
        is_stream: Reads a hub data set as it goes, and raises at the first bad row, not at the end.

    Yields:
        At least one row; text is never empty, and `messages` are role and content. Of a generate
        stage's data that has `keep_columns`, also `kept`: these columns as JSON.

    Raises:
        InputError: Nothing there, a file that cannot be read, or rows that cannot be used: when
            they are found, or, of bad values, all at once after the last row.
    """
    if isinstance(source, StoreRows):
        yield from store_rows(source)
        return
    if isinstance(source, Task):
        rows, chosen = iter(make_rows(source, seed)), _columns_of(source, need)
        name = f"task {source.task}"
    else:
        columns, name = written_names(source, need), source.dataset_name
        rows = islice(raw_rows(source, columns, is_stream=is_stream), source.num_examples)
        if isinstance(source, PromptRows) and source.prompt_file is not None:
            rows = with_prompts(rows, source.prompt_file, source.dataset_name)
        first = next(rows, None)
        if first is None:
            raise DataError("dataset_name", f"{name}: the data set is empty; name one with rows")
        rows, chosen = chain([first], rows), choose(first, source, need)
    prefix = source.prompt_prefix if isinstance(source, AdditionTask | DatasetRows) else ""
    if prefix and "prompt" not in chosen:
        raise DataError(
            "prompt_prefix", f"the rows of {name} have no `prompt` that it could stand before"
        )
    problems = _BadValues(name, is_stream, *wanted_label(source))
    for number, row in enumerate(rows, 1):
        if not isinstance(source, Task):
            refuse_late_pair(row, number, source, chosen)
        kept: Row = {name: row.get(written) for name, written in chosen.items()}
        if problems.accepts(kept):
            if need == "rationale":
                kept["bare_prompt"] = kept["prompt"]
            if prefix:
                kept["prompt"] = prefix + kept["prompt"]
            yield kept | kept_columns(row, number, source)
    problems.raise_any()


def _columns_of(task: Task, need: Need) -> dict[str, str]:
    # Where there is no text, it is what is asked.
    is_asked = need == "texts" and isinstance(task, CompletionTask)
    return {"text": "prompt"} if is_asked else _OF_TASK[need]


class _BadValues:
    """Counts what cannot be used, column by column."""

    def __init__(self, name: str, is_stream: bool, label: str, is_label: Callable[[Any], bool]):
        self.name, self.is_stream = name, is_stream
        self.label, self.checks = label, _CHECKS | {"label": is_label}
        self.num_rows = 0
        self.found: dict[str, list[tuple[int, Any]]] = {}

    def accepts(self, row: Row) -> bool:
        self.num_rows += 1
        bad = [column for column, value in row.items() if not self.checks[column](value)]
        for column in bad:
            # Only the first is shown, the others are counted.
            seen = self.found.setdefault(column, [])
            seen.append((self.num_rows, None if seen else row[column]))
        if bad and self.is_stream:
            self.raise_any()
        # After a bad row, the ones that are left would no longer be numbered as they stand.
        return not self.found

    def raise_any(self) -> None:
        if self.found:
            raise InputError([self._message(column, bad) for column, bad in self.found.items()])

    def _message(self, column: str, bad: list[tuple[int, Any]]) -> str:
        number, value = bad[0]
        shape = {
            "messages": "no list of {role: ..., content: text}",
            "label": f"not {self.label}",
        }.get(column, "no text")
        return (
            f"{self.name}: `{column}` is empty or {shape} in {len(bad)} of {self.num_rows} rows, "
            f"first in row {number}: {_shortened(value)}; write it there, or leave the rows out"
        )


def _shortened(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and _is_unicode(value)


def _is_unicode(text: str) -> bool:
    # Half a surrogate pair, as JSON may hold, is no character, and no tokenizer takes it.
    return _HALF_A_PAIR.search(text) is None


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_message, value))


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_text(value.get("role"))
        and isinstance(value.get("content"), str)
        and _is_unicode(value["content"])
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "text": _is_text,
    "prompt": _is_text,
    "completion": _is_text,
    "messages": _is_conversation,
    "text_pair": _is_text,
    "rationale": lambda value: value is None or _is_text(value),
}
