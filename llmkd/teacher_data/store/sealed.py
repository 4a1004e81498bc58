"""Checksums, and JSON files that carry their own: one flipped byte and they are refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from llmkd.run_folder import write_atomically

CHECKSUM = "checksum"


def checksum(content: bytes | pa.Buffer) -> str:
    """16 hexadecimal digits that stand for the content: XXH3, 64 bits."""
    return xxhash.xxh3_64(content).hexdigest()


def file_checksum(path: Path) -> str:
    """`checksum` of a file's content, of which little is in memory at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()


def write_sealed(path: Path, data: dict[str, Any]) -> None:
    """Writes JSON with its checksum, whole or not at all."""
    write_atomically(path, sealed(data))


def read_sealed(path: Path) -> dict[str, Any]:
    """The data of a file that `write_sealed` wrote.

    Raises:
        ValueError: A byte of it is another one.
    """
    content = path.read_bytes()
    try:
        data = json.loads(content)
        del data[CHECKSUM]
        if sealed(data) == content:
            return data
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{path}: does not have its checksum")


def sealed(data: dict[str, Any]) -> bytes:
    """The data as JSON text, its last key the checksum of the rest."""
    return _text(data | {CHECKSUM: checksum(_text(data))})


def _text(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()
