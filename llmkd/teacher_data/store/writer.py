"""Writing a store, shard by shard: whatever kills the process, whole shards stay and no half one."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

from llmkd.run_folder import STAGED, held, replacing, sync, write_atomically
from llmkd.teacher_data.store.contents import (
    INDEX,
    MANIFEST,
    StoreCounts,
    contents_of,
    counts_of,
    write_contents,
)
from llmkd.teacher_data.store.errors import OtherSettingsError, StoreError
from llmkd.teacher_data.store.folder import PLAN, read_settings
from llmkd.teacher_data.store.rows import StoreRow
from llmkd.teacher_data.store.sealed import sealed
from llmkd.teacher_data.store.settings import StoreSettings
from llmkd.teacher_data.store.shards import (
    FOLDER,
    encode_shard,
    shard_files,
    shard_name,
    shard_number,
)


class StoreWriter:
    """A store to be written, held against other processes from `with` to the end of its block.

    A store that was begun goes on with the shards that are missing. Equal rows give equal bytes, no
    matter how often it was interrupted or how it was shared.

    Args:
        folder: Made where it is missing.
        settings: Of the whole store.
        share: (i, n): every n-th shard from the i-th on. The others are another process's, in a
            folder of its own; `merge` joins them.

    Raises:
        InputError: Another process holds it, or it cannot be written.
        OtherSettingsError: It was begun with other settings.
        DamagedStoreError: Nothing in it says what it was begun with.
    """

    def __init__(self, folder: Path, settings: StoreSettings, share: tuple[int, int] = (0, 1)):
        assert 0 <= share[0] < share[1]
        self.folder, self.settings, self.share = folder, settings, share

    def __enter__(self) -> "StoreWriter":
        with ExitStack() as stack:
            stack.enter_context(held_store(self.folder))
            self._begin()
            self._lock = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.close()

    def rows_of(self, number: int) -> range:
        """The rows of the data that a shard is made of."""
        return self.settings.rows_of(number)

    def write(self, number: int, rows: Iterable[StoreRow]) -> None:
        """Writes a shard: it is there whole, on the disk, when this returns, or not at all.

        Args:
            number: One of `missing`.
            rows: What came of `rows_of(number)`, in order of number and sample; a row of the data
                may make none. They are used up one by one.

        Raises:
            OSError: The disk is full, say; no file is left of it.
        """
        assert number in self.missing
        content = encode_shard(self.settings, _in_order(rows, self.rows_of(number)))
        path = self.folder / FOLDER / shard_name(number, content)
        write_atomically(path, memoryview(content))
        self.missing.remove(number)

    def take_over(self, path: Path) -> None:
        """Adds a shard that is written already: linked where the file system allows it, else copied."""
        target = self.folder / FOLDER / path.name
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(path, target)
            sync(target.parent)
        except OSError:
            with replacing(target) as staged:
                shutil.copyfile(path, staged)
        number = shard_number(path.name)
        assert number is not None
        self.missing.remove(number)

    def finish(self) -> StoreCounts:
        """Checks all shards, and makes the store whole if none is missing, not even other shares'.

        Returns:
            The counts of what is there.

        Raises:
            DamagedStoreError: A shard is not as it was written.
        """
        assert not self.missing
        files = self._files()
        shards = [contents_of(_only(paths), self.settings) for paths in files.values()]
        if len(shards) == self.settings.num_shards:
            write_contents(self.folder, self.settings, shards)
        return counts_of(shards)

    def _begin(self) -> None:
        begun = read_settings(self.folder)
        # A plan that nothing was written by yet may be changed.
        is_empty = not shard_files(self.folder)
        if begun is not None and not is_empty and (changes := begun.differences(self.settings)):
            raise OtherSettingsError(
                f"{self.folder}: was begun with other settings than now: {changes}; write the same "
                "again, or another folder"
            )
        for name in (f".{PLAN}", f".{MANIFEST}", f".{INDEX}", f"{FOLDER}/."):
            for path in self.folder.glob(f"{name}*{STAGED}"):
                path.unlink()
        plan, content = self.folder / PLAN, sealed(self.settings.as_json())
        if not plan.exists() or plan.read_bytes() != content:
            write_atomically(plan, content)
        done = self._files().keys()
        start, step = self.share
        self.missing = [n for n in range(start, self.settings.num_shards, step) if n not in done]
        """The shards of this share that are still to be written."""
        if len(done) < self.settings.num_shards:
            # Its presence would say that the store is whole.
            remove(self.folder / MANIFEST)

    def _files(self) -> dict[int, list[Path]]:
        files = shard_files(self.folder)
        return {number: files[number] for number in files if number < self.settings.num_shards}


def held_store(folder: Path) -> AbstractContextManager[int]:
    """Holds a store against other writers; see `held`."""
    otherwise = "write a share of it into another folder, and join them by `llmkd cache merge`"
    return held(folder, key="teacher store", otherwise=otherwise)


def _in_order(rows: Iterable[StoreRow], numbers: range) -> Iterator[StoreRow]:
    last = (-1, -1)
    for row in rows:
        assert row.number in numbers
        assert (row.number, row.sample) > last
        last = (row.number, row.sample)
        yield row


def _only(paths: list[Path]) -> Path:
    if len(paths) > 1:
        names = " and ".join(str(path) for path in paths)
        raise StoreError(f"{names}: are the same shard; delete all but one")
    return paths[0]


def remove(path: Path) -> None:
    """Removes a file, if it is there, for good."""
    if path.exists():
        path.unlink()
        sync(path.parent)
