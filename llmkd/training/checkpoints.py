"""Checkpoints that are whole or absent."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmkd.run_folder import sync

_NAME = re.compile(r"^checkpoint-(\d+)$")
STAGING = ".staging"
"""The folder inside `checkpoints/` where a checkpoint is written before it gets its name."""


def checkpoint_steps(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder by step, in order."""
    found = {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else [])
        if (match := _NAME.match(path.name))
    }
    return dict(sorted(found.items()))


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps, or None."""
    return next(reversed(checkpoint_steps(folder).values()), None)


def publish(staged: Path, folder: Path) -> Path:
    """Gives a folder that is fully written its final place, by one rename.

    Everything is on the disk before the rename, so that a crash, even of the machine, leaves
    either the whole folder or nothing under its name. An older folder of that name is replaced.
    """
    for path in staged.rglob("*"):
        sync(path)
    sync(staged)
    replaced = staged.with_name(f"{staged.name}.replaced")
    # Left there where a crash came between these renames and the end.
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    staged.rename(folder)
    sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return folder


@contextmanager
def removed_on_failure(staged: Path) -> Iterator[None]:
    """Takes away what is half written when the block fails: on a full disk it is only in the way."""
    try:
        yield
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def retire(folder: Path, *, keep: int | None) -> None:
    """Deletes all but the newest `keep` checkpoints; each vanishes by a rename first."""
    if not keep:
        return
    trash = folder / STAGING
    trash.mkdir(exist_ok=True)
    for path in list(checkpoint_steps(folder).values())[:-keep]:
        doomed = path.rename(trash / f"{path.name}.retired")
        shutil.rmtree(doomed)


def set_aside(checkpoint: Path) -> Path:
    """Renames a checkpoint so that none of it is gone, and nothing goes on from it; says where."""
    number = 1
    while (target := checkpoint.with_name(f".{checkpoint.name}.old-{number}")).exists():
        number += 1
    return checkpoint.rename(target)


def set_aside_after(checkpoint: Path, folder: Path) -> None:
    """Sets aside the checkpoints after one of them, lest they pass for its continuation."""
    steps = {path.resolve(): step for step, path in checkpoint_steps(folder).items()}
    start = steps.get(checkpoint.resolve())
    if start is None:
        return
    for step, path in checkpoint_steps(folder).items():
        if step > start:
            set_aside(path)
