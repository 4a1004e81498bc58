"""Looking a store over to the last byte, and taking out what is damaged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkd.progress import Progress
from llmkd.run_folder import held
from llmkd.teacher_data.store.contents import INDEX, MANIFEST, StoreCounts
from llmkd.teacher_data.store.errors import StoreError
from llmkd.teacher_data.store.folder import PLAN, missing_shards, need_settings, unfinished
from llmkd.teacher_data.store.sealed import file_checksum, read_sealed
from llmkd.teacher_data.store.settings import StoreSettings
from llmkd.teacher_data.store.shards import (
    FOLDER,
    name_checksum,
    open_shard,
    row_key,
    shard_files,
    shard_number,
)
from llmkd.teacher_data.store.writer import LOCK_KEY, StoreWriter, remove


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written."""

    path: str
    """Within the store."""
    what: str
    """Is wrong with it."""
    shard: int | None = None
    """Its number; None of other files, which can be made again from the shards."""
    first_row: int | None = None
    """Of the data, that the shard was made of."""
    last_row: int | None = None

    def __str__(self) -> str:
        rows = (
            "" if self.shard is None else f" (rows {self.first_row} to {self.last_row} of the data)"
        )
        return f"{self.path}: {self.what}{rows}"


def verify(folder: Path, progress: Progress = lambda done, total: None) -> list[Damage]:
    """Reads every byte of a store, finished or not, and decodes every row.

    Args:
        folder: The store.
        progress: Called with (done, total) shards.

    Raises:
        NoStoreError: It is none.
        DamagedStoreError: Nothing in it says what it is a store of.
        UnknownFormatError: Another version of llmkd wrote it.
    """
    settings = need_settings(folder)
    manifest = _read(folder / MANIFEST)
    return [
        *_damaged_statements(folder, settings, manifest),
        *_damaged_shards(folder, settings, manifest, progress),
    ]


def damaged(folder: Path, progress: Progress = lambda done, total: None) -> list[int]:
    """The shards whose rows have to be captured again; see `verify`."""
    return sorted({d.shard for d in verify(folder, progress) if d.shard is not None})


def remove_shards(folder: Path, numbers: Sequence[int]) -> None:
    """Takes shards out of a store, which is unfinished then: a writer finds them missing.

    Raises:
        InputError: Another process holds the store.
    """
    if not numbers:
        return
    with held(folder, key=LOCK_KEY):
        remove(folder / MANIFEST)
        files = shard_files(folder)
        for path in [path for number in numbers for path in files.get(number, [])]:
            remove(path)


def rebuild(folder: Path) -> StoreCounts:
    """Makes plan, index and manifest again from the shards.

    Raises:
        UnfinishedStoreError: Shards are missing.
        DamagedStoreError: A shard is damaged.
    """
    settings = need_settings(folder)
    if missing_shards(folder, settings):
        raise unfinished(folder, settings)
    with StoreWriter(folder, settings) as writer:
        return writer.finish()


def _damaged_statements(
    folder: Path, settings: StoreSettings, manifest: dict[str, Any] | None
) -> Iterator[Damage]:
    """What is wrong with plan, manifest and index."""
    if _read(folder / PLAN) is None:
        yield _lost(folder, PLAN)
    is_whole = not missing_shards(folder, settings)
    if manifest is None:
        if is_whole or (folder / MANIFEST).exists():
            yield _lost(folder, MANIFEST)
        return
    if StoreSettings.from_json(manifest, folder / MANIFEST).fingerprint != settings.fingerprint:
        yield Damage(MANIFEST, f"has other settings than {PLAN}")
    index = folder / manifest["index"]
    if not index.exists() or file_checksum(index) != name_checksum(index):
        yield _lost(folder, index.name)
    for path in folder.glob(INDEX):
        if path != index:
            yield Damage(path.name, "is one file too many")


def _damaged_shards(
    folder: Path, settings: StoreSettings, manifest: dict[str, Any] | None, progress: Progress
) -> Iterator[Damage]:
    files = shard_files(folder)
    found = {path.name for paths in files.values() for path in paths}
    own = {p[0].name for n, p in files.items() if len(p) == 1 and n < settings.num_shards}
    if manifest is not None:
        own = set(manifest["shards"])
    names = sorted(found | own)
    for done, name in enumerate(names):
        progress(done, len(names))
        path = folder / FOLDER / name
        wrong = _wrong_with(path, settings) if name in own else "is one file too many"
        if wrong is not None:
            number = shard_number(name)
            assert number is not None
            rows = settings.rows_of(number)
            yield Damage(f"{FOLDER}/{name}", wrong, number, rows.start, rows.stop - 1)
    progress(len(names), len(names))


def _wrong_with(path: Path, settings: StoreSettings) -> str | None:
    """What is wrong with a shard; None if it is as it was written."""
    if not path.exists():
        return "is missing"
    if file_checksum(path) != name_checksum(path):
        return "is damaged"
    try:
        shard = open_shard(path, settings)
        for index in range(shard.num_rows):
            row = shard.row(index)
            if row_key(settings, row) != shard.key(index):
                return f"has a row {index} that is another one's"
    except (StoreError, ValueError) as error:
        return f"cannot be read ({error})"
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_sealed(path)
    except (FileNotFoundError, ValueError):
        return None


def _lost(folder: Path, name: str) -> Damage:
    return Damage(name, "is damaged" if (folder / name).exists() else "is missing")
