"""Checksums of a checkpoint: which of its files was cut short, changed or lost."""

from pathlib import Path

from llmkd.teacher_data.store.sealed import file_checksum, read_sealed, write_sealed
from llmkd.training.metrics import STATE_FILE

CHECKSUMS = "checksums.json"
"""Size in bytes and checksum of every other file, inside a checkpoint."""


def write_checksums(checkpoint: Path) -> None:
    """Writes down the size and the checksum of every file of a folder and its sub-folders."""
    files = {
        path.relative_to(checkpoint).as_posix(): [path.stat().st_size, file_checksum(path)]
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path != checkpoint / CHECKSUMS
    }
    write_sealed(checkpoint / CHECKSUMS, {"files": files})


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, beginning with the file's name; None where it is whole.

    One without checksums, of an older version, counts as whole if its last file is there.
    """
    if not (checkpoint / CHECKSUMS).is_file():
        return None if (checkpoint / STATE_FILE).is_file() else f"{STATE_FILE}: is not there"
    try:
        files = read_sealed(checkpoint / CHECKSUMS)["files"]
    except (OSError, ValueError):
        return f"{CHECKSUMS}: is not as it was written"
    # Sizes first: they cost nothing.
    for name, (size, _) in files.items():
        if problem := _wrong_size(checkpoint / name, size):
            return f"{name}: {problem}"
    changed = (
        name for name, (_, digest) in files.items() if _is_changed(checkpoint / name, digest)
    )
    return next((f"{name}: is not as it was written" for name in changed), None)


def _wrong_size(path: Path, size: int) -> str | None:
    if not path.is_file():
        return "is not there"
    found = path.stat().st_size
    return None if found == size else f"has {found:,} bytes, where {size:,} were written"


def _is_changed(path: Path, digest: str) -> bool:
    try:
        return file_checksum(path) != digest
    except OSError:
        # A sector that the disk cannot give back.
        return True
