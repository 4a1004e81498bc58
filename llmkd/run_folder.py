"""The run folder: who holds it, which stages are finished, and whether their inputs still hold.

RUN/recipe.resolved.yaml  environment.json  results.json
RUN/stages/NAME/stage.json                 fingerprint and status
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llmkd.errors import InputError
from llmkd.secrets import masked

STAGE_FILE = "stage.json"
HASHED_BYTES = 64 * 2**20
"""Files up to this size are known by their content, larger ones by size and modification time."""

LONGEST_S = 1e12
"""More seconds than any stage takes."""

STAGED = ".tmp"
"""How the names of files end that are not whole yet."""


@dataclass(frozen=True)
class StageState:
    """What `stage.json` says.

    Args:
        fingerprint: Hash of all that the stage depends on.
        inputs: The same, readable, to say what changed.
        is_finished: Whether the product is whole.
        seconds: Time that the stage took, summed over its attempts; what a kill cut off is not in
            it. None where it is not known.
        ended: When the stage was last at work, as an ISO date and time.
    """

    fingerprint: str
    inputs: dict[str, Any]
    is_finished: bool
    seconds: float | None = None
    ended: str | None = None


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Puts a file in place whole, or leaves the old one; a link leads to the file.

    Raises:
        InputError: What is there is no file: a folder, a device, a pipe.
    """
    path = Path(os.path.realpath(path))
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"{path}: is there already and is no file; write another path, or move it")
    with replacing(path) as staged:
        staged.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields where to write what takes a file's place, on the disk and whole, as the block ends.

    Nothing is left of a block that fails; what a kill leaves is named `.NAME.PROCESS.tmp`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}{STAGED}")
    try:
        yield staged
        sync(staged)
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_stage(folder: Path) -> StageState | None:
    """The state of a stage that was begun, else None."""
    path = folder / STAGE_FILE
    if not path.exists():
        return None
    try:
        return _checked(StageState(**json.loads(path.read_text(encoding="utf-8"))))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: not written by this version of llmkd ({error}); write another output_dir"
        ) from error


def _checked(state: StageState) -> StageState:
    """The state, if its fields have their types."""
    kinds = {
        "fingerprint": str,
        "inputs": dict,
        "is_finished": bool,
        "seconds": int | float | None,
        "ended": str | None,
    }
    for key, kind in kinds.items():
        if not isinstance(getattr(state, key), kind):
            raise TypeError(f"{key}: {type(getattr(state, key)).__name__}")
    if state.seconds is not None and not 0 <= state.seconds < LONGEST_S:
        raise ValueError("seconds: out of range")
    return state


def write_stage(folder: Path, state: StageState) -> None:
    """Records the state of a stage."""
    write_atomically(folder / STAGE_FILE, json.dumps(vars(state), indent=2) + "\n")


def fingerprint(inputs: dict[str, Any]) -> str:
    """A hash of plain data that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str | None:
    """What is at a path, as a hash; None where nothing is, such as for a hub name."""
    if path.is_file():
        return _file_digest(path)
    if not path.is_dir():
        return None
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != "README.md")
    return fingerprint({str(p.relative_to(path)): _file_digest(p) for p in files})


def _file_digest(path: Path) -> str:
    stat = path.stat()
    if stat.st_size > HASHED_BYTES:
        return f"{stat.st_size} bytes at {stat.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def held(
    folder: Path, *, key: str = "output_dir", otherwise: str = "write output_dir=ANOTHER_FOLDER"
) -> Iterator[int]:
    """Holds a folder against a second run, until the block ends or the process dies.

    Args:
        folder: Made where it is missing.
        key: What an error calls the folder.
        otherwise: What to do instead of waiting for the other run.

    Yields:
        The lock's file descriptor: a child process that inherits it holds the folder too.

    Raises:
        InputError: Another run holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock_file = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(
            f"{key}: {folder} cannot be written ({error.strerror}); write another folder"
        ) from error
    with lock_file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{key}: {folder} is in use by another run; wait for it, or {otherwise}"
            ) from error
        yield lock.fileno()


def now() -> str:
    """This moment, to the second, with the distance to UTC."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """What a reader needs to judge or repeat the run: versions and machine."""
    names = ("llmkd", "torch", "transformers", "datasets", "accelerate", "peft", "deepspeed", "trl")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "num_cpus": os.cpu_count(),
        "packages": {name: version for name in names if (version := _version(name))},
        "command": shlex.join(["llmkd", *map(masked, sys.argv[1:])]),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
