"""What a store's shards hold together: the counts, the index, and the manifest that says it is whole.

    STORE/index-CHECKSUM.arrow     one row for each of the store's, found by its tokens or its place
    STORE/manifest.json            written last

Both follow from the shards alone, byte for byte, and can be made again from them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int, UInt8

from llmkd.run_folder import write_atomically
from llmkd.teacher_data.store.sealed import checksum, write_sealed
from llmkd.teacher_data.store.settings import StoreSettings
from llmkd.teacher_data.store.shards import encode_batch, open_shard

MANIFEST = "manifest.json"
INDEX = "index-*.arrow"
FINISH_REASONS = (None, "stop", "length")
"""What the numbers in `finish_reason` stand for."""
KEY = "S16"
"""A `tokens_key`, in a dtype that can be sorted; numpy compares it as if it were padded with zeros."""


@dataclass(frozen=True)
class ShardContents:
    """What the index and the counts take from a shard."""

    name: str
    num_bytes: int
    num_payload_bytes: int
    num_cut_rows: int
    tokens_keys: UInt8[np.ndarray, "row 16"]
    num_tokens: Int[np.ndarray, " row"]
    num_positions: Int[np.ndarray, " row"]
    finish_reason: Int[np.ndarray, " row"]


@dataclass(frozen=True)
class StoreCounts:
    """How much there is in a store."""

    num_rows: int
    num_tokens: int
    """Of prompts and completions."""
    num_positions: int
    """Tokens that are predicted."""
    num_cut_rows: int
    """Rows of which tokens were left out at the end."""
    num_stop: int
    """Completions that the teacher ended."""
    num_length: int
    """Completions that were cut."""
    num_bytes: int
    """Of all shards."""
    num_payload_bytes: int
    """Of what is kept of the teacher's distributions."""


def contents_of(path: Path, settings: StoreSettings) -> ShardContents:
    """Reads a shard, whose bytes are checked."""
    shard = open_shard(path, settings)
    return ShardContents(
        name=path.name,
        num_bytes=path.stat().st_size,
        num_payload_bytes=shard.num_payload_bytes(),
        num_cut_rows=shard.num_cut_rows(),
        tokens_keys=shard.tokens_keys().copy(),
        num_tokens=shard.num_tokens(),
        num_positions=shard.num_positions.copy(),
        finish_reason=np.array([FINISH_REASONS.index(r) for r in shard.finish_reasons()], np.int8),
    )


def counts_of(shards: Sequence[ShardContents]) -> StoreCounts:
    """Adds the shards up."""
    reasons = Counter(reason for shard in shards for reason in shard.finish_reason.tolist())
    return StoreCounts(
        num_rows=sum(len(shard.num_tokens) for shard in shards),
        num_tokens=sum(int(shard.num_tokens.sum()) for shard in shards),
        num_positions=sum(int(shard.num_positions.sum()) for shard in shards),
        num_cut_rows=sum(shard.num_cut_rows for shard in shards),
        num_stop=reasons[FINISH_REASONS.index("stop")],
        num_length=reasons[FINISH_REASONS.index("length")],
        num_bytes=sum(shard.num_bytes for shard in shards),
        num_payload_bytes=sum(shard.num_payload_bytes for shard in shards),
    )


def write_contents(folder: Path, settings: StoreSettings, shards: Sequence[ShardContents]) -> None:
    """Writes index and manifest of a store whose shards are all there."""
    index = encode_index(shards)
    name = INDEX.replace("*", checksum(index))
    write_atomically(folder / name, memoryview(index))
    write_sealed(folder / MANIFEST, manifest_of(settings, shards, name))
    for path in folder.glob(INDEX):
        if path.name != name:
            path.unlink()


def manifest_of(
    settings: StoreSettings, shards: Sequence[ShardContents], index: str
) -> dict[str, Any]:
    """What the manifest says; of each shard how many rows and bytes it has."""
    return settings.as_json() | {
        "counts": asdict(counts_of(shards)),
        "index": index,
        "shards": {shard.name: [len(shard.num_tokens), shard.num_bytes] for shard in shards},
    }


def encode_index(shards: Sequence[ShardContents]) -> pa.Buffer:
    """The index's file.

    `tokens_key` is sorted and `row` says whose each key is, of equal keys the first row's first; the
    other columns are in the order of the rows.
    """
    keys = np.concatenate([np.empty((0, 16), np.uint8), *(s.tokens_keys for s in shards)])
    keys = keys.reshape(-1).view(KEY)
    order = np.argsort(keys, kind="stable")
    by_key = pa.py_buffer(keys[order])
    columns = {
        "tokens_key": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), len(keys), [None, by_key]
        ),
        "row": pa.array(order, pa.int64()),
        "num_tokens": _joined([s.num_tokens for s in shards], pa.int32()),
        "num_positions": _joined([s.num_positions for s in shards], pa.int32()),
        "finish_reason": _joined([s.finish_reason for s in shards], pa.int8()),
    }
    return encode_batch(pa.record_batch(columns))


def _joined(arrays: Sequence[np.ndarray], kind: pa.DataType) -> pa.Array:
    return pa.array(np.concatenate([np.empty(0, kind.to_pandas_dtype()), *arrays]), kind)
