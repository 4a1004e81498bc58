"""Which files on this machine a data set is made of.

The rules are those of llmkd.data.files, which imports too much for a check; tests compare the two.
"""

from pathlib import Path

from llmkd.check.facts import NotKnownError
from llmkd.recipe.data import DatasetRows
from llmkd.recipe.local_paths import expanded
from llmkd.recipe.yaml_places import Key

SUFFIXES = (".jsonl", ".parquet", ".txt")
KNOWN_SPLITS = ("train", "validation", "test")
STAGE_DATA = "data.jsonl"


class BadDataError(Exception):
    """A data set that no run could train on: what is wrong, and what to write instead."""

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.key: Key = (field,)
        """The field of `data` to mend."""


def files_of(source: DatasetRows) -> list[Path]:
    """The files that hold a data set's rows.

    Raises:
        NotKnownError: It is not on this machine, or cannot be looked at.
        BadDataError: There is no such split.
    """
    path = expanded(source.dataset_name)
    try:
        if path.is_dir():
            return _files_of_split(path, source.dataset_split)
        if not path.is_file():
            raise NotKnownError(f"{source.dataset_name} is not on this machine")
    except (OSError, ValueError) as error:
        raise NotKnownError(f"{source.dataset_name}: cannot be read ({error})") from error
    if path.suffix not in SUFFIXES:
        raise NotKnownError(f"{path}: no {', '.join(SUFFIXES)} file; the run itself will tell")
    if source.dataset_split != "train":
        raise BadDataError(
            "dataset_split",
            f"{path} is a single file and has no split {source.dataset_split}; write "
            "dataset_split: train, or name another file",
        )
    return [path]


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
        there = ", ".join(path.name for path in files) or f"no file that is {', '.join(SUFFIXES)}"
        raise BadDataError(
            "dataset_split",
            f"{folder} has no file of split {split}, but {there}; write another dataset_split, or "
            "the path of a file",
        )
    return chosen
