"""The first rows of a data set on this machine, and how many there are, read in a moment.

Never more than a few MB are read, which llmkd.data.files does not promise; tests compare the two.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmkd.check.facts import Exactness, Fact, NotKnownError
from llmkd.data.columns import Need, choose, refuse_late_pair, written_names
from llmkd.data.folders import SUFFIXES, local_files, suffixes
from llmkd.data.kept_columns import kept_columns
from llmkd.data.labels import wanted_label
from llmkd.data.prompt_files import with_prompts
from llmkd.errors import DataError
from llmkd.recipe.data import DatasetFiles, DatasetRows, LabelledRows, PromptRows

MOST_SAMPLED_ROWS = 200
MOST_BYTES = 4 * 2**20
"""A file that is larger is counted by the mean length of the lines in this many bytes."""
MOST_COUNTED_FILES = 50

Row = dict[str, Any]


@dataclass(frozen=True)
class LocalRows:
    """Rows of a data set on this machine."""

    num_rows: Fact
    """Before `num_examples` cuts them."""
    sample: list[Row]
    """The first rows, with the columns that are trained on, under llmkd's names for them."""


def read_rows(
    source: DatasetRows | LabelledRows,
    need: Need = "example",
    *,
    most: int = MOST_SAMPLED_ROWS,
) -> LocalRows:
    """Counts the rows, and reads the first of them.

    Args:
        source: A file or a folder; a hub name is not known.
        need: What the rows are for.
        most: So many of the first rows are kept, where that many can be read in a moment.

    Raises:
        NotKnownError: It is not on this machine, or cannot be read now.
        DataError: It is, and it is empty, lacks columns, or is of a type that is not read.
    """
    num_rows, sample = read_raw_rows(source, written_names(source, need), most=most)
    sample = sample[: source.num_examples]
    if isinstance(source, PromptRows) and source.prompt_file is not None:
        sample = list(with_prompts(sample, source.prompt_file, source.dataset_name))
    chosen = choose(sample[0], source, need)
    for number, row in enumerate(sample, 1):
        refuse_late_pair(row, number, source, chosen)
        kept_columns(row, number, source)
    kept = [{name: row.get(written) for name, written in chosen.items()} for row in sample]
    _refuse_bad_values(source, kept)
    return LocalRows(num_rows, kept)


def count_rows(source: DatasetFiles) -> Fact:
    """Counts the rows, whatever they hold.

    Raises:
        NotKnownError: They are not on this machine, or cannot be read now.
        DataError: There are none, or the file is of a type that is not read.
    """
    try:
        found = _num_rows(_files(source))
    except OSError as error:
        raise NotKnownError(f"{error.filename}: {error.strerror or error}") from error
    if not found.value:
        raise _empty(source)
    return found


def _empty(source: DatasetFiles) -> DataError:
    return DataError(
        "dataset_name", f"{source.dataset_name}: the data set is empty; name one with rows"
    )


def read_raw_rows(
    source: DatasetFiles, columns: set[str], *, most: int = MOST_SAMPLED_ROWS
) -> tuple[Fact, list[Row]]:
    """Counts the rows, and reads the first of them, whatever they hold.

    Args:
        source: A file or a folder; a hub name is not known.
        columns: The only ones whose values are needed.
        most: So many of the first rows are read.

    Raises:
        NotKnownError: It is not on this machine, or cannot be read now.
        DataError: It is, and it is empty, or of a type that is not read.
    """
    num_rows, files = count_rows(source), _files(source)
    sample = list(islice((row for path in files for row in _first_rows(path, columns)), most))
    if not sample:
        raise _empty(source)
    return num_rows, sample


def _refuse_bad_values(source: DatasetFiles, rows: Sequence[Row]) -> None:
    checks = {**_CHECKS, "label": wanted_label(source)}
    for number, row in enumerate(rows, 1):
        for column, value in row.items():
            # As llmkd.data.sources, whose import takes seconds; a test compares the two.
            wanted, is_good = checks.get(column, ("text", _is_text))
            if not is_good(value):
                raise DataError(
                    "dataset_name",
                    f"{source.dataset_name}: `{column}` of row {number} is not {wanted}; write it there, or leave "
                    "the row out",
                )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_message, value))


def _is_message(value: Any) -> bool:
    is_mapping = isinstance(value, dict)
    return is_mapping and _is_text(value.get("role")) and isinstance(value.get("content"), str)


_CHECKS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "messages": ("a list of {role: ..., content: text}", _is_conversation),
    "rationale": ("text, or left out", lambda value: value is None or _is_text(value)),
}


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


def _files(source: DatasetFiles) -> list[Path]:
    try:
        files = local_files(source)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise NotKnownError(f"{source.dataset_name}: cannot be read ({error})") from error
    if files is None:
        raise NotKnownError(f"{source.dataset_name} is not on this machine")
    unknown = next((path for path in files if path.suffix not in SUFFIXES), None)
    if unknown is not None:
        raise DataError(
            "dataset_name", f"{unknown} is of no known type; write a file that is {suffixes()}"
        )
    return files


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
            raise DataError(
                "dataset_name", f"{path}:{number}: no JSON; write one JSON object per line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(
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
        raise DataError(
            "dataset_name", f"{path}: no Parquet file ({error}); write another file"
        ) from error


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        # A stream of small reads, lest a row group of gigabytes be fetched for its first rows.
        return pyarrow.parquet.ParquetFile(path, buffer_size=2**16, pre_buffer=False)
    except pyarrow.ArrowException as error:
        raise DataError(
            "dataset_name", f"{path}: no Parquet file ({error}); write another file"
        ) from error
