"""Raw rows, as they stand in files, folders and hub data sets."""

import difflib
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
from datasets.exceptions import DatasetNotFoundError

from llmkd.data.folders import local_files, suffixes
from llmkd.errors import DataError, InputError
from llmkd.recipe.data import DatasetFiles
from llmkd.recipe.local_paths import expanded, looks_like_path
from llmkd.run_folder import digest, fingerprint


def raw_rows(
    source: DatasetFiles, columns: Collection[str] | None, *, is_stream: bool = False
) -> Iterator[dict[str, Any]]:
    """The rows of a data set, whatever they hold.

    Args:
        source: With `stage:NAME` already replaced by a path.
        columns: The only ones whose values are needed; others may come out as None. None needs all.
        is_stream: Reads a hub data set over the network as it goes, rather than downloading it.

    Raises:
        InputError: Nothing there, or a file that cannot be read.
    """
    files = _local_files(source)
    if files is None:
        return iter(_load_from_hub(source, is_stream=is_stream))
    return _rows_of_files(files, columns)


def content_of(source: DatasetFiles) -> str:
    """What identifies the rows of a data set: a hash of its files, or the hub's fingerprint."""
    files = _local_files(source)
    if files is None:
        return _load_from_hub(source, is_stream=False)._fingerprint
    return fingerprint({file.name: digest(file) for file in files})


def _local_files(source: DatasetFiles) -> list[Path] | None:
    files = local_files(source)
    if files is None and looks_like_path(source.dataset_name):
        path = expanded(source.dataset_name)
        raise DataError(
            "dataset_name",
            f"there is no {path}; {_neighbours(path)}; write the path of a file or folder",
        )
    return files


def _rows_of_files(
    files: Iterable[Path], columns: Collection[str] | None
) -> Iterator[dict[str, Any]]:
    for path in files:
        match path.suffix:
            case ".jsonl":
                yield from _rows_of_jsonl(path)
            case ".parquet":
                yield from _rows_of_parquet(path, columns)
            case ".txt":
                yield {"text": _decoded(path, path.read_bytes())}
            case _:
                raise DataError(
                    "dataset_name", f"{path} is of no known type; write a file that is {suffixes()}"
                )


def _rows_of_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(_decoded(f"{path}:{number}", line))
            except (ValueError, RecursionError) as error:
                if isinstance(error, InputError):
                    raise
                is_told = isinstance(error, json.JSONDecodeError)
                why = f"{error.msg} at column {error.colno}" if is_told else str(error)
                raise InputError(
                    f"{path}:{number}: no JSON ({why}); write one JSON object per line"
                ) from None
            if not isinstance(row, dict):
                raise InputError(
                    f"{path}:{number}: a JSON {type(row).__name__}; write one JSON object per line"
                )
            yield row


def _rows_of_parquet(path: Path, columns: Collection[str] | None) -> Iterator[dict[str, Any]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            # Only what may be asked for: other columns can be large, pictures for instance.
            wanted = names if columns is None else [name for name in names if name in columns]
            for batch in file.iter_batches(columns=wanted):
                blank = dict.fromkeys(names)
                yield from (blank | row for row in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: no Parquet file ({error}); write another file") from None


def _decoded(place: Path | str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: no UTF-8 ({error.reason}); save the file as UTF-8") from None


def _load_from_hub(source: DatasetFiles, *, is_stream: bool) -> Any:
    try:
        return datasets.load_dataset(
            source.dataset_name,
            source.dataset_config,
            split=source.dataset_split,
            streaming=is_stream,
        )
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError, RuntimeError) as error:
        # A RuntimeError is how datasets refuses one that comes as a Python file.
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            "dataset_name",
            f"{source.dataset_name} is no file or folder here, and the hub does not give it "
            f"({reason}); write a path, or a hub name with its dataset_config and dataset_split",
        ) from error


def _neighbours(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    names = sorted(entry.name for entry in folder.iterdir())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:5]
    return f"beside it: {', '.join(close)}" if close else f"the folder {folder} is empty"
