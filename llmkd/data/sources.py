"""Rows of text from files, folders, stages, the hub, or a procedural task.

Rows come out with exactly the columns `text`, or `prompt` and `completion`; whatever else a data
set holds is dropped. Where a data set has both, `prompt` and `completion` are taken.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow.parquet
from datasets.exceptions import DatasetNotFoundError

from llmkd.data.addition import make_rows
from llmkd.errors import InputError
from llmkd.recipe.data import AdditionTask, DatasetRows

Need = Literal["example", "prompt", "text"]

COLUMNS: dict[Need, list[tuple[str, ...]]] = {
    "example": [("prompt", "completion"), ("text",)],
    "prompt": [("prompt",)],
    "text": [("text",)],
}
SUFFIXES = (".jsonl", ".parquet", ".txt")
STAGE_DATA = "data.jsonl"
KNOWN_SPLITS = ("train", "validation", "test")


def load_rows(
    source: AdditionTask | DatasetRows, *, seed: int, need: Need = "example"
) -> datasets.Dataset:
    """Loads rows with the columns that the caller needs, checked and ready to be tokenized.

    Args:
        source: A data set or a procedural task, with `stage:NAME` already replaced by a path.
        seed: Decides which sums a procedural task makes; a data set is read as it is.
        need: `example` is `prompt` and `completion`, or else `text`; `prompt` is the prompt alone,
            and `text` the text alone.

    Returns:
        At least one row; every value is a string that is not empty.

    Raises:
        InputError: Nothing there, a file that cannot be read, or rows that cannot be used.
    """
    if isinstance(source, AdditionTask):
        name, rows = f"task {source.task}", make_rows(source, seed)
    else:
        name, rows = source.dataset_name, islice(_read(source), source.num_examples)
    return _checked(rows, name, need)


def _checked(rows: Iterable[dict[str, Any]], name: str, need: Need) -> datasets.Dataset:
    wanted = list(dict.fromkeys(column for choice in COLUMNS[need] for column in choice))
    columns: dict[str, list[Any]] = {column: [] for column in wanted}
    num_rows, seen = 0, dict[str, None]()
    for row in rows:
        num_rows += 1
        seen.update(dict.fromkeys(row))
        for column in wanted:
            columns[column].append(row.get(column))
    if not num_rows:
        raise InputError(f"{name}: the data set is empty; write the name of one that has rows")
    chosen = next((c for c in COLUMNS[need] if seen.keys() >= set(c)), None)
    if chosen is None:
        choices = ", or ".join(" and ".join(f"`{c}`" for c in choice) for choice in COLUMNS[need])
        raise InputError(
            f"{name}: the columns are {', '.join(seen) or 'none'}; rename them to {choices}"
        )
    kept = {column: columns[column] for column in chosen}
    _refuse_bad_values(kept, name)
    return datasets.Dataset.from_dict(kept)


def _refuse_bad_values(columns: dict[str, list[Any]], name: str) -> None:
    problems = []
    for column, values in columns.items():
        bad = [i for i, value in enumerate(values, 1) if not (isinstance(value, str) and value)]
        if bad:
            problems.append(
                f"{name}: `{column}` is empty or no text in {len(bad)} of {len(values)} rows, "
                f"first in row {bad[0]}: {values[bad[0] - 1]!r}; write text there, or leave the "
                "rows out"
            )
    if problems:
        raise InputError(problems)


def _read(source: DatasetRows) -> Iterator[dict[str, Any]]:
    path = Path(source.dataset_name).expanduser()
    if path.is_dir():
        return _rows_of_files(_files_of_split(path, source.dataset_split))
    if path.exists():
        if source.dataset_split != "train":
            raise InputError(
                f"data.dataset_split: {path} is a single file and has no split "
                f"{source.dataset_split}; write dataset_split: train, or name another file"
            )
        return _rows_of_files([path])
    if _is_meant_as_path(source.dataset_name):
        raise InputError(
            f"data.dataset_name: there is no {path}; {_neighbours(path)}; write the path of a "
            "file or folder"
        )
    return _rows_of_hub(source)


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """The files named after the split; for `train`, all files where none is named after a split."""
    if (folder / STAGE_DATA).is_file() and split == "train":
        return [folder / STAGE_DATA]
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    named = {path: path.stem.split("-")[0] for path in files}
    chosen = [path for path in files if named[path] == split]
    if not chosen and split == "train" and not set(named.values()) & set(KNOWN_SPLITS):
        chosen = files
    if not chosen:
        there = ", ".join(path.name for path in files) or f"no file that is {_or(SUFFIXES)}"
        raise InputError(
            f"data.dataset_name: {folder} has no file of split {split}, but {there}; write another "
            "dataset_split, or the path of a file"
        )
    return chosen


def _rows_of_files(files: list[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        match path.suffix:
            case ".jsonl":
                yield from _rows_of_jsonl(path)
            case ".parquet":
                yield from _rows_of_parquet(path)
            case ".txt":
                yield {"text": _decoded(path, path.read_bytes())}
            case _:
                raise InputError(
                    f"data.dataset_name: {path} is of no known type; write a file that is "
                    f"{_or(SUFFIXES)}"
                )


def _rows_of_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(_decoded(f"{path}:{number}", line))
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{path}:{number}: no JSON ({error.msg} at column {error.colno}); write one "
                    "JSON object per line"
                ) from None
            if not isinstance(row, dict):
                raise InputError(
                    f"{path}:{number}: a JSON {type(row).__name__}; write one JSON object per line"
                )
            yield row


def _rows_of_parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            # Only what may be asked for: other columns can be large, pictures for instance.
            columns = [name for name in names if name in ("text", "prompt", "completion")]
            for batch in file.iter_batches(columns=columns):
                blank = dict.fromkeys(names)
                yield from (blank | row for row in batch.to_pylist())
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{path}: no Parquet file ({error}); write another file") from None


def _decoded(place: Path | str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: no UTF-8 ({error.reason}); save the file as UTF-8") from None


def _rows_of_hub(source: DatasetRows) -> Iterator[dict[str, Any]]:
    try:
        loaded = datasets.load_dataset(
            source.dataset_name, source.dataset_config, split=source.dataset_split
        )
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"data.dataset_name: {source.dataset_name} is no file or folder here, and the hub "
            f"does not give it ({reason}); write a path, or a hub name with its dataset_config "
            "and dataset_split"
        ) from error
    assert isinstance(loaded, datasets.Dataset)
    return iter(loaded)  # pyright: ignore[reportReturnType]  # its rows are dicts


def _is_meant_as_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix in SUFFIXES


def _neighbours(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    names = sorted(entry.name for entry in folder.iterdir())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:5]
    return f"beside it: {', '.join(close)}" if close else f"the folder {folder} is empty"


def _or(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
