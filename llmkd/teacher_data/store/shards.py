"""Shards: the files that hold a store's rows, each a plain Arrow file named by its content.

    STORE/shards/NUMBER-CHECKSUM.arrow

Nothing in them is compressed but the payloads, so that readers map them into memory. Arrow trusts what
it reads, and may crash on a flipped byte: a file is opened after its checksum was compared.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int, UInt8

from llmkd.teacher_data.captured import Positions
from llmkd.teacher_data.engine import FinishReason
from llmkd.teacher_data.store.codec import decode, encode
from llmkd.teacher_data.store.errors import DamagedStoreError, OtherSettingsError
from llmkd.teacher_data.store.rows import StoreRow, tokens_key
from llmkd.teacher_data.store.sealed import checksum, file_checksum
from llmkd.teacher_data.store.settings import StoreSettings

FOLDER = "shards"
SETTINGS = b"llmkd.settings"
"""Where a file's schema says what it is a shard of."""
_NAME = re.compile(r"^(\d{6,})-([0-9a-f]{16})\.arrow$")
_IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "number": pa.int64(),
        "sample": pa.int32(),
        "key": pa.binary(16),
        "tokens_key": pa.binary(16),
        "token_ids": _IDS,
        "spans": _IDS,
        "num_cut": pa.int32(),
        "prompt": pa.string(),
        "completion": pa.string(),
        "finish_reason": pa.string(),
        "num_positions": pa.int32(),
        "payload": pa.large_binary(),
    }
)


def shard_name(number: int, content: pa.Buffer) -> str:
    """The file name of a shard."""
    return f"{number:06d}-{checksum(content)}.arrow"


def shard_number(name: str) -> int | None:
    """The number in a file name; None where it is no shard's."""
    match = _NAME.match(name)
    return int(match[1]) if match else None


def name_checksum(path: Path) -> str:
    """The checksum in the name of a shard's file, or the index's."""
    return path.stem.rpartition("-")[2]


def shard_files(folder: Path) -> dict[int, list[Path]]:
    """The files of each shard of a store that has any, in order; more than one is one too many."""
    found: dict[int, list[Path]] = {}
    for path in (folder / FOLDER).glob("*.arrow"):
        if (number := shard_number(path.name)) is not None:
            found.setdefault(number, []).append(path)
    return dict(sorted(found.items()))


def encode_shard(settings: StoreSettings, rows: Iterable[StoreRow]) -> pa.Buffer:
    """The content of a shard's file; equal rows give equal bytes."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for row in rows:
        for name, cell in _cells(settings, row).items():
            columns[name].append(cell)
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    schema = SCHEMA.with_metadata({SETTINGS: json.dumps(settings.as_json())})
    return encode_batch(pa.record_batch(arrays, schema=schema))


def encode_batch(batch: pa.RecordBatch) -> pa.Buffer:
    """An Arrow file with one batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
    return sink.getvalue()


def map_batch(path: Path) -> pa.RecordBatch:
    """The one batch of an Arrow file, mapped into memory; it needs no open file from then on."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).get_batch(0)


def _cells(settings: StoreSettings, row: StoreRow) -> dict[str, Any]:
    num_positions = sum(row.spans[1::2]) - sum(row.spans[::2])
    assert (row.positions is None) == (settings.capture is None)
    assert row.positions is None or len(row.positions.label_log_prob) == num_positions
    cells = {name: getattr(row, name) for name in SCHEMA.names if hasattr(row, name)}
    cells |= {name: _whole_characters(cells[name]) for name in ("prompt", "completion")}
    cells |= {"key": row_key(settings, row), "num_positions": num_positions, "payload": None}
    if row.positions is not None:
        cells["payload"] = encode(row.positions, precision=settings.precision)
    return cells


def _whole_characters(text: str | None) -> str | None:
    """The text with U+FFFD in place of halves of surrogate pairs, which a server's JSON may hold.

    No file of UTF-8 can. Nothing is lost that is trained on: the tokens stand beside it.
    """
    return text and text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def row_key(settings: StoreSettings, row: StoreRow) -> bytes:
    """16 bytes that stand for what the teacher was asked.

    The settings, the tokens (of a generated row the prompt's), which completion, and which row of
    the data: the same prompt may be there twice.
    """
    is_generated = settings.kind == "generated" and row.spans
    asked = tokens_key(row.token_ids[: row.spans[0]]) if is_generated else row.tokens_key
    which = struct.pack("<qq", row.number, row.sample)
    content = settings.fingerprint.encode() + asked + which
    return hashlib.blake2b(content, digest_size=16).digest()


class Shard:
    """The rows of a shard, read where they lie in its file."""

    def __init__(self, batch: pa.RecordBatch):
        self._columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        self.num_rows = batch.num_rows
        self.num_positions = view(batch["num_positions"], "i4")
        self._numbers = view(batch["number"], "i8")
        self._samples = view(batch["sample"], "i4")
        self._num_cut = view(batch["num_cut"], "i4")
        self._token_ids = _Lists(batch["token_ids"])
        self._spans = _Lists(batch["spans"])
        self._payloads = _Blobs(batch["payload"]) if not batch["payload"].null_count else None

    def row(self, index: int, *, with_positions: bool = True) -> StoreRow:
        """All that is kept of a row, or all but its positions."""
        return StoreRow(
            number=int(self._numbers[index]),
            sample=int(self._samples[index]),
            tokens_key=self._cell("tokens_key", index),
            # A copy: a view would keep the whole file mapped.
            token_ids=self._token_ids[index].copy(),
            spans=self.spans(index),
            num_cut=int(self._num_cut[index]),
            prompt=self._cell("prompt", index),
            completion=self._cell("completion", index),
            finish_reason=self._cell("finish_reason", index),
            positions=self._positions(index) if with_positions else None,
        )

    def spans(self, index: int) -> list[int]:
        """Which tokens of a row are predicted."""
        return self._spans[index].tolist()

    def key(self, index: int) -> bytes:
        """The row's `row_key`, as written."""
        return self._cell("key", index)

    def payload(self, index: int) -> memoryview | None:
        """A row's positions, encoded; None where only text is kept."""
        return None if self._payloads is None else self._payloads[index]

    def num_tokens(self) -> Int[np.ndarray, " row"]:
        """Tokens of each row."""
        return np.diff(self._token_ids.offsets)

    def num_payload_bytes(self) -> int:
        """Bytes of all payloads."""
        return 0 if self._payloads is None else len(self._payloads.content)

    def num_cut_rows(self) -> int:
        """Rows of which tokens were left out."""
        return int(np.count_nonzero(self._num_cut))

    def finish_reasons(self) -> list[FinishReason | None]:
        """Why each completion ends."""
        return self._columns["finish_reason"].to_pylist()

    def tokens_keys(self) -> UInt8[np.ndarray, "row 16"]:
        """The `tokens_key` of each row."""
        return view(self._columns["tokens_key"], "u1").reshape(-1, 16)

    def _positions(self, index: int) -> Positions | None:
        payload = self.payload(index)
        return None if payload is None else decode(payload)

    def _cell(self, column: str, index: int) -> Any:
        return self._columns[column][index].as_py()


def view(column: pa.Array, dtype: str) -> np.ndarray:
    """A column of numbers without nulls, where it lies; `to_numpy` would import pandas."""
    return np.frombuffer(column.buffers()[1] or b"", dtype)


class _Lists:
    """A column of lists of token ids or places."""

    def __init__(self, column: pa.ListArray):
        self.offsets = view(column.offsets, "i4")
        self.values = view(column.values, "i4")

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]


class _Blobs:
    """A column of bytes."""

    def __init__(self, column: pa.LargeBinaryArray):
        _, offsets, content = column.buffers()
        self.offsets = np.frombuffer(offsets, np.int64)
        self.content = memoryview(content)

    def __getitem__(self, index: int) -> memoryview:
        return self.content[self.offsets[index] : self.offsets[index + 1]]


def open_shard(path: Path, settings: StoreSettings, *, is_checked: bool = False) -> Shard:
    """Maps a shard into memory.

    Args:
        path: The file, under its own name.
        settings: Of the store.
        is_checked: It was opened before, and need not be read through again.

    Raises:
        DamagedStoreError: The file is not as it was written, or is not there.
        UnknownFormatError: Another version of llmkd wrote it.
        OtherSettingsError: It is another store's.
    """
    try:
        if not is_checked and file_checksum(path) != name_checksum(path):
            raise damaged_shard(path, settings, "is damaged")
        batch = map_batch(path)
        if not is_checked:
            _refuse_other(json.loads(batch.schema.metadata[SETTINGS]), path, settings)
        return Shard(batch)
    except FileNotFoundError as error:
        raise damaged_shard(path, settings, "is missing") from error
    except (pa.ArrowInvalid, json.JSONDecodeError, TypeError, KeyError) as error:
        raise damaged_shard(path, settings, "is no shard of a teacher store") from error


def _refuse_other(written: dict[str, Any], path: Path, settings: StoreSettings) -> None:
    if changes := StoreSettings.from_json(written, path).differences(settings):
        raise OtherSettingsError(
            f"{path}: is another store's: {changes}; put it back where it was written"
        )


def damaged_shard(path: Path, settings: StoreSettings, what: str) -> DamagedStoreError:
    """The error that names a shard and its rows, with what to do."""
    number = shard_number(path.name)
    assert number is not None
    return DamagedStoreError(
        f"{path}: {what} (shard {number}: {rows_text(settings, number)}); "
        f"`llmkd cache repair {path.parent.parent}` captures them again"
    )


def rows_text(settings: StoreSettings, number: int) -> str:
    """The rows of a shard, for people."""
    rows = settings.rows_of(number)
    return f"rows {rows.start} to {rows.stop - 1} of the data"
