"""What Parquet and Arrow IPC by themselves make of the numbers that the teacher store keeps.

A position is a row of a table: its ids in ascending order, or the gaps between them, or the three bytes
of each gap as columns of their own (Arrow only: Parquet's smallest integer has four bytes);
log-probabilities in steps; tail and label. All under zstd, Parquet in the best of its encodings. In one
row group (record batch) for all positions, and in one for every 200 or 20: reading sequences in random
order takes one for each. A file's fixed part, which a large one would not feel, is not counted.
"""

import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmkd.teacher_data.captured import TopKPositions
from llmkd.teacher_data.store.quantise import to_steps

ROUNDS = 50
ENCODINGS = ["PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", "RLE_DICTIONARY"]
OPTIONS = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd"))


def measure_containers(top: TopKPositions) -> dict[str, Any]:
    """Bytes per token and, in groups, positions read per second."""
    found = {}
    for length in (len(top.token_ids), 200, 20):
        for kind in ("ids", "gaps", "gap bytes"):
            table, groups = as_table(top, kind), f"{kind}, groups of {length}"
            found[f"arrow, {groups}"] = {
                "bytes": per_position(table, length, arrow),
                "positions_per_s": arrow_speed(table, length),
            }
            if kind != "gap bytes":
                found[f"parquet, {groups}"] = best_parquet(table, length)
    return found


def best_parquet(table: pa.Table, length: int) -> dict[str, Any]:
    sizes = {encoding: per_position(table, length, parquet_in(encoding)) for encoding in ENCODINGS}
    best = min(sizes, key=sizes.__getitem__)
    file = pq.ParquetFile(pa.BufferReader(parquet_in(best)(table, length)))
    speed = positions_per_s(lambda: file.read_row_group(0, use_threads=False), length)
    return {"bytes": sizes[best], "encoding": best, "positions_per_s": speed}


def arrow_speed(table: pa.Table, length: int) -> int:
    batches = pa.ipc.open_file(pa.BufferReader(arrow(table, length)))
    return positions_per_s(lambda: batches.get_batch(0), length)


def as_table(top: TopKPositions, kind: str) -> pa.Table:
    order = top.token_ids.argsort(1)
    ids = np.take_along_axis(top.token_ids, order, 1)
    steps, tail = to_steps(np.take_along_axis(top.log_probs, order, 1), top.tail_log_prob)
    gaps = np.diff(ids, axis=1, prepend=np.int32(-1))
    columns = {
        "ids": {"ids": ids},
        "gaps": {"gaps": gaps},
        "gap bytes": {f"byte_{i}": (gaps >> 8 * i).astype(np.uint8) for i in range(3)},
    }[kind]
    return pa.table(
        {
            **{name: lists(values) for name, values in columns.items()},
            "steps": lists(steps.astype(np.uint8)),
            "tail": tail,
            "label": top.label_log_prob.astype(np.float16).view(np.int16),
        }
    )


def lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def per_position(table: pa.Table, group: int, write: Callable[[pa.Table, int], bytes]) -> float:
    fixed = len(write(table.slice(0, 0), group))
    return round((len(write(table, group)) - fixed) / len(table), 2)


def parquet_in(encoding: str) -> Callable[[pa.Table, int], bytes]:
    """A writer with this encoding of ids or gaps, and of the steps."""

    def write(table: pa.Table, group: int) -> bytes:
        paths = [f"{name}.list.element" for name in table.column_names[:2]]
        by_dictionary = encoding == "RLE_DICTIONARY"
        file = io.BytesIO()
        pq.write_table(
            table,
            file,
            compression="zstd",
            row_group_size=group,
            use_dictionary=paths if by_dictionary else False,
            column_encoding=None if by_dictionary else dict.fromkeys(paths, encoding),
            write_statistics=False,
        )
        return file.getvalue()

    return write


def arrow(table: pa.Table, group: int) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_file(file, table.schema, options=OPTIONS) as writer:
        writer.write_table(table, max_chunksize=group)
    return file.getvalue()


def positions_per_s(read: Callable[[], object], positions: int) -> int:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        read()
        times.append(time.perf_counter() - start)
    return round(positions / statistics.median(times))
