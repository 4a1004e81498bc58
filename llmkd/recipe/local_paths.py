"""Paths of a recipe must lead somewhere before anything runs."""

from pathlib import Path

from llmkd.recipe.places import nearest

DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".txt", ".csv", ".yaml", ".yml", ".jinja")


def looks_like_path(value: str) -> bool:
    """Whether a value can only be a path, and no hub name or shipped name."""
    is_deep = value.count("/") > 1
    return is_deep or value.startswith((".", "/", "~")) or value.lower().endswith(DATA_SUFFIXES)


def expanded(value: str | Path) -> Path:
    """The path with `~` replaced by the home folder, where there is one."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)


def is_there(path: Path) -> bool:
    """Whether a path exists and may be looked at; one that is too long does not."""
    try:
        return path.exists()
    except OSError:
        return False


def names_in(folder: Path) -> list[str]:
    """The names in a folder, or none where it cannot be read."""
    try:
        return sorted(file.name for file in folder.iterdir())
    except OSError:
        return []


def missing_path(value: str) -> str | None:
    """What is wrong with a path that does not exist; paths start at the current folder."""
    path = expanded(value)
    if is_there(path):
        return None
    folder = path.parent
    if not is_there(folder):
        while not is_there(folder):
            folder = folder.parent
        return f"{value} does not exist, nor does its folder; the path leads as far as {folder}"
    if near := nearest(path.name, names_in(folder)):
        return f"{value} does not exist; did you mean `{folder / near}`?"
    start = "" if path.is_absolute() else " (paths start at the current folder)"
    return f"{value} does not exist; write a path that does{start}"
