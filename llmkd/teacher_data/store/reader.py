"""Reading a store: any row at once, in little memory, from any number of processes."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int8, Int32, Int64, UInt8

from llmkd.teacher_data.captured import Positions
from llmkd.teacher_data.store.codec import decode
from llmkd.teacher_data.store.contents import KEY, StoreCounts
from llmkd.teacher_data.store.errors import DamagedStoreError
from llmkd.teacher_data.store.folder import read_manifest
from llmkd.teacher_data.store.rows import StoreRow
from llmkd.teacher_data.store.sealed import file_checksum
from llmkd.teacher_data.store.settings import StoreSettings
from llmkd.teacher_data.store.shards import (
    FOLDER,
    Shard,
    damaged_shard,
    map_batch,
    name_checksum,
    open_shard,
    view,
)

OPEN_SHARDS = 2048
"""Shards that a reader keeps mapped. It bounds the memory, 13 KiB each; to map one again takes as long as
to decode several rows."""


class Store:
    """A whole store, opened by `Store.open`.

    `store[i]` is a `StoreRow`; the rows are in the order of the data. It goes into other processes by
    fork or by pickle, and opens its files anew there.

    Attributes:
        folder: Where it is.
        settings: What it was made of.
        counts: How much there is.
        num_tokens: Of each row, prompt and completion.
        num_positions: Of each row, tokens that are predicted.
        finish_reason: Of each row, an index into `FINISH_REASONS`.
    """

    num_tokens: Int32[np.ndarray, " row"]
    num_positions: Int32[np.ndarray, " row"]
    finish_reason: Int8[np.ndarray, " row"]

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        manifest: dict[str, Any],
        index: pa.RecordBatch,
    ):
        self.folder, self.settings = folder, settings
        self.counts = StoreCounts(**manifest["counts"])
        self._names = list(manifest["shards"])
        self._ends = list(accumulate(num_rows for num_rows, _ in manifest["shards"].values()))
        self.num_tokens = view(index["num_tokens"], "i4")
        self.num_positions = view(index["num_positions"], "i4")
        self.finish_reason = view(index["finish_reason"], "i1")
        self._keys = view(index["tokens_key"], KEY)
        self._rows_by_key = view(index["row"], "i8")
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._checked: set[int] = set()

    @classmethod
    def open(cls, folder: str | Path) -> "Store":
        """Opens a store; only manifest and index are read.

        Raises:
            NoStoreError: There is none.
            UnfinishedStoreError: Shards are still to be written.
            UnknownFormatError: Another version of llmkd wrote it.
            DamagedStoreError: Manifest or index are damaged, or a shard is missing or cut short.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        settings = StoreSettings.from_json(manifest, folder)
        for name, (_, num_bytes) in manifest["shards"].items():
            _refuse_other_size(folder / FOLDER / name, num_bytes, settings)
        return cls(folder, settings, manifest, _open_index(folder, manifest["index"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).open, (self.folder,)

    def __len__(self) -> int:
        return len(self.num_tokens)

    def __getitem__(self, index: int) -> StoreRow:
        shard, place = self._place(index)
        return shard.row(place)

    def __iter__(self) -> Iterator[StoreRow]:
        return (self[index] for index in range(len(self)))

    def texts(self) -> Iterator[StoreRow]:
        """All rows in order, without their positions, which take longest to decode."""
        for index in range(len(self)):
            shard, place = self._place(index)
            yield shard.row(place, with_positions=False)

    def positions(self, indices: Sequence[int]) -> Positions | None:
        """What the teacher says at some rows' positions, one row's after the other's.

        A batch at a time is several times as fast as row by row.

        Args:
            indices: At least one row, in any order.

        Returns:
            None where only text is kept.

        Raises:
            DamagedStoreError: A row's shard is damaged.
        """
        found = [shard.payload(place) for shard, place in map(self._place, indices)]
        payloads = [payload for payload in found if payload is not None]
        assert not payloads or len(payloads) == len(found), "all shards are of one capture"
        return decode(*payloads) if payloads else None

    def spans(self, index: int) -> list[int]:
        """Which tokens of a row are predicted, without the rest of the row."""
        shard, place = self._place(index)
        return shard.spans(place)

    def find(self, keys: UInt8[np.ndarray, "key 16"]) -> Int64[np.ndarray, " key"]:
        """The rows of sequences, by their `tokens_key`: of several the first, and -1 where none is."""
        wanted = np.ascontiguousarray(keys).reshape(-1).view(KEY)
        if not len(self):
            return np.full(len(wanted), -1)
        places = np.minimum(self._keys.searchsorted(wanted), len(self) - 1)
        return np.where(self._keys[places] == wanted, self._rows_by_key[places], -1)

    def _place(self, index: int) -> tuple[Shard, int]:
        """The shard of a row, and where in it the row is."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a store with {len(self)} rows")
        number = bisect_right(self._ends, index)
        return self._shard(number), index - (self._ends[number - 1] if number else 0)

    def _shard(self, number: int) -> Shard:
        shard = self._open.get(number)
        if shard is None:
            path = self.folder / FOLDER / self._names[number]
            shard = open_shard(path, self.settings, is_checked=number in self._checked)
            self._checked.add(number)
            self._open[number] = shard
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return shard


def _refuse_other_size(path: Path, num_bytes: int, settings: StoreSettings) -> None:
    """Whether a shard is there in full is seen without reading it."""
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise damaged_shard(path, settings, "is missing") from error
    if found != num_bytes:
        raise damaged_shard(path, settings, f"has {found} bytes instead of {num_bytes}")


def _open_index(folder: Path, name: str) -> pa.RecordBatch:
    path = folder / name
    if not path.exists() or file_checksum(path) != name_checksum(path):
        what = "is damaged" if path.exists() else "is missing"
        raise DamagedStoreError(
            f"{path}: {what}; `llmkd cache repair {folder}` makes it again from the shards"
        )
    return map_batch(path)
