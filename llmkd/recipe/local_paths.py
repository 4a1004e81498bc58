"""Paths of a recipe must lead somewhere before anything runs."""

from pathlib import Path

from llmkd.recipe.places import nearest

DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".txt", ".csv", ".yaml", ".yml")


def looks_like_path(value: str) -> bool:
    """Whether a value can only be a path, and no hub name or shipped name."""
    return value.startswith((".", "/", "~")) or value.lower().endswith(DATA_SUFFIXES)


def missing_path(value: str) -> str | None:
    """What is wrong with a path that does not exist; paths start at the current folder."""
    path = Path(value).expanduser()
    if path.exists():
        return None
    folder = path.parent
    if not folder.is_dir():
        while not folder.is_dir():
            folder = folder.parent
        return f"{value} does not exist, nor does its folder; the path leads as far as {folder}"
    names = sorted(file.name for file in folder.iterdir())
    if near := nearest(path.name, names):
        return f"{value} does not exist; did you mean `{folder / near}`?"
    start = "" if path.is_absolute() else " (paths start at the current folder)"
    return f"{value} does not exist; write a path that does{start}"
