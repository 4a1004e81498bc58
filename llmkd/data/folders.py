"""Which files of a folder hold a split. Imports no torch."""

import re
from pathlib import Path

from llmkd.errors import DataError
from llmkd.recipe.data import DatasetFiles
from llmkd.recipe.local_paths import expanded

SUFFIXES = (".jsonl", ".parquet", ".txt")
STAGE_DATA = "data.jsonl"
"""What a stage writes for split `train`; split X is `X.jsonl`."""
KNOWN_SPLITS = ("train", "validation", "valid", "val", "dev", "eval", "test")


def local_files(source: DatasetFiles) -> list[Path] | None:
    """The files of a data set, in order; None where it is not on this machine.

    Raises:
        DataError: The split is not there.
        OSError: The folder cannot be read.
    """
    path = expanded(source.dataset_name)
    if path.is_dir():
        return _files_of_split(path, source.dataset_split)
    if not path.exists():
        return None
    if source.dataset_split != "train":
        raise DataError(
            "dataset_split",
            f"{path} is a single file and has no split {source.dataset_split}; write "
            "dataset_split: train, or name another file",
        )
    return [path]


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """The files named after the split, whose names may go on after it.

    For `train`, all files where none is named after a split.
    """
    if (folder / STAGE_DATA).is_file() and split == "train":
        return [folder / STAGE_DATA]
    files = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
    named = {path: re.split(r"[-_.]", path.stem)[0] for path in files}
    chosen = [path for path in files if split in (named[path], path.stem)]
    if not chosen and split == "train" and not set(named.values()) & set(KNOWN_SPLITS):
        chosen = files
    if not files:
        raise DataError(
            "dataset_name",
            f"{folder} has no file that is {suffixes()}; name a folder with one, or the path of a file",
        )
    if not chosen:
        there = ", ".join(path.name for path in files)
        raise DataError(
            "dataset_split",
            f"{folder} has no file of split {split}, only {there}; write another dataset_split, or "
            "the path of a file",
        )
    return chosen


def suffixes() -> str:
    """The types of files that can be read, in words."""
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
