"""The first rows of a data set on this machine, and how many there are, read in a moment.

The rules for columns are those of llmkd.data.sources, which imports too much for a check; tests compare
the two.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from llmkd.check.data_files import BadDataError, files_of
from llmkd.check.facts import Exactness, Fact, NotKnownError
from llmkd.recipe.data import DatasetRows

MOST_SAMPLED_ROWS = 200
MOST_BYTES = 4 * 2**20
"""A file that is larger is counted by the mean length of the lines in this many bytes."""
MOST_COUNTED_FILES = 50

Need = Literal["example", "prompt", "scored"]
COLUMNS: dict[Need, list[tuple[str, ...]]] = {
    "example": [("messages",), ("prompt", "completion"), ("text",)],
    "prompt": [("prompt",)],
    "scored": [("text",), ("messages",), ("prompt", "completion")],
}
"""What a row may have; the first that is there is taken, or what `columns` names."""

Row = dict[str, Any]


@dataclass(frozen=True)
class LocalRows:
    """Rows of a data set on this machine."""

    num_rows: Fact
    """Before `num_examples` cuts them."""
    sample: list[Row]
    """The first rows, with the columns that are trained on, under llmkd's names for them."""


def read_rows(source: DatasetRows, need: Need = "example") -> LocalRows:
    """Counts the rows, and reads the first of them.

    Args:
        source: A file or a folder; a hub name is not known.
        need: What the rows are for: training, prompting, or scoring.

    Raises:
        NotKnownError: It is not on this machine, or cannot be read now.
        BadDataError: It is, and it is empty or lacks columns.
    """
    files = files_of(source)
    try:
        num_rows = _num_rows(files)
    except OSError as error:
        raise NotKnownError(f"{error.filename}: {error.strerror}") from error
    choices = COLUMNS[need]
    names = _names(source, choices)
    rows = (row for path in files for row in _first_rows(path, set(names.values())))
    sample = list(islice(rows, MOST_SAMPLED_ROWS))
    if not num_rows.value or not sample:
        raise BadDataError(
            "dataset_name",
            f"{source.dataset_name}: the data set is empty; write the name of one that has rows",
        )
    return LocalRows(num_rows, _chosen(sample, source, choices, names))


def _num_rows(files: Sequence[Path]) -> Fact:
    """Counts the first files, up to a few megabytes; of the others, only the sizes are looked at."""
    total, counted_bytes, is_exact = 0, 0, True
    for number, path in enumerate(files):
        if number == MOST_COUNTED_FILES or counted_bytes > MOST_BYTES:
            sizes = [file.stat().st_size for file in files]
            total = round(total * sum(sizes) / max(1, sum(sizes[:number])))
            is_exact = False
            break
        count, known = _count(path)
        total, is_exact = total + count, is_exact and known == "exact"
        counted_bytes += path.stat().st_size if path.suffix == ".jsonl" else 0
    how = f"{len(files)} files" if len(files) > 1 else files[0].name
    if is_exact:
        return Fact(total, "exact", how)
    return Fact(total, "estimate", f"{how}, by the size of the first rows")


def _names(source: DatasetRows, choices: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """What the data set calls each column."""
    renamed: Mapping[str, str] = {**source.columns}
    return {column: renamed.get(column, column) for choice in choices for column in choice}


def _chosen(
    sample: list[Row],
    source: DatasetRows,
    choices: Sequence[tuple[str, ...]],
    names: Mapping[str, str],
) -> list[Row]:
    """The rows with the columns that are trained on, under llmkd's names."""
    there = ", ".join(map(str, sample[0])) or "none"
    missing = [f"{key}: {name}" for key, name in source.columns.items() if name not in sample[0]]
    if missing:
        raise BadDataError(
            "columns",
            f"{source.dataset_name} has no column for {', '.join(missing)}; its columns are {there}",
        )
    for choice in sorted(choices, key=lambda choice: not source.columns.keys() & set(choice)):
        if all(names[column] in sample[0] for column in choice):
            return [{column: row.get(names[column]) for column in choice} for row in sample]
    wanted = ", or ".join(" and ".join(f"`{column}`" for column in choice) for choice in choices)
    raise BadDataError(
        "columns" if source.columns else "dataset_name",
        f"{source.dataset_name}: the columns are {there}; rename them to {wanted}, or say which is "
        f"which by columns: {{{choices[0][0]}: NAME}}",
    )


def _count(path: Path) -> tuple[int, Exactness]:
    """Rows of a file."""
    counters: Mapping[str, Callable[[Path], tuple[int, Exactness]]] = {
        ".jsonl": _count_lines,
        ".parquet": lambda path: (_parquet(path).metadata.num_rows, "exact"),
        ".txt": lambda path: (int(path.stat().st_size > 0), "exact"),
    }
    return counters[path.suffix](path)


def _count_lines(path: Path) -> tuple[int, Exactness]:
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(MOST_BYTES)
    if size <= MOST_BYTES:
        return sum(1 for line in content.split(b"\n") if line.strip()), "exact"
    return round(size / len(content) * max(1, content.count(b"\n"))), "estimate"


def _first_rows(path: Path, wanted: set[str]) -> Iterator[Row]:
    try:
        if path.suffix == ".parquet":
            yield from _rows_of_parquet(path, wanted)
        else:
            yield from _rows_of_jsonl(path) if path.suffix == ".jsonl" else _row_of_text(path)
    except OSError as error:
        raise NotKnownError(f"{path}: {error.strerror or error}") from error


def _rows_of_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        lines = file.read(MOST_BYTES).split(b"\n")
        is_whole = not file.read(1)
    for number, line in enumerate(lines if is_whole or len(lines) == 1 else lines[:-1], 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise BadDataError(
                "dataset_name", f"{path}:{number}: no JSON; write one JSON object per line"
            ) from None
        if not isinstance(row, dict):
            raise BadDataError(
                "dataset_name", f"{path}:{number}: no JSON object; write one JSON object per line"
            )
        yield row


def _row_of_text(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        text = file.read(MOST_BYTES).decode("utf-8-sig", errors="ignore")
    if text:
        yield {"text": text}


def _rows_of_parquet(path: Path, wanted: set[str]) -> Iterator[Row]:
    import pyarrow

    try:
        file = _parquet(path)
        blank = dict.fromkeys(file.schema_arrow.names)
        # Only what may be asked for: other columns can be large, pictures for instance.
        columns = [name for name in blank if name in wanted]
        for batch in file.iter_batches(batch_size=MOST_SAMPLED_ROWS, columns=columns):
            yield from (blank | row for row in batch.to_pylist())
            return
    except (pyarrow.ArrowException, OSError) as error:
        raise BadDataError(
            "dataset_name", f"{path}: no Parquet file ({error}); write another file"
        ) from error


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        # A stream of small reads, lest a row group of gigabytes be fetched for its first rows.
        return pyarrow.parquet.ParquetFile(path, buffer_size=2**16, pre_buffer=False)
    except pyarrow.ArrowException as error:
        raise BadDataError(
            "dataset_name", f"{path}: no Parquet file ({error}); write another file"
        ) from error
