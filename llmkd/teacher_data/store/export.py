"""Writing a store out in a form that everything reads."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmkd.errors import InputError
from llmkd.evaluation.results import without_nan
from llmkd.progress import Progress
from llmkd.run_folder import replacing
from llmkd.teacher_data.captured import Positions, SampledPositions
from llmkd.teacher_data.store.reader import Store
from llmkd.teacher_data.store.rows import StoreRow
from llmkd.teacher_data.store.shards import SCHEMA

COLUMNS = (
    "number", "sample", "prompt", "completion", "finish_reason", "token_ids", "spans", "num_cut",
)  # fmt: skip
FLOATS, LISTS = pa.list_(pa.float32()), pa.list_(pa.list_(pa.int32()))
POSITIONS = {
    "top_k": {
        "token_ids": LISTS,
        "log_probs": pa.list_(FLOATS),
        "tail_log_prob": FLOATS,
        "label_log_prob": FLOATS,
    },
    "sampled": {
        "token_ids": LISTS,
        "counts": LISTS,
        "entropy": FLOATS,
        "label_log_prob": FLOATS,
    },
}
"""What a row's `positions` hold, by the kind of capture: of each a list with an item per position."""

Append = Callable[[list[dict[str, Any]]], None]


def export(
    store: Store,
    output: Path,
    *,
    with_positions: bool = False,
    progress: Progress = lambda done, total: None,
) -> None:
    """Writes a store's rows as JSON lines or Parquet, few of them in memory at a time.

    Args:
        store: What is read.
        output: A path that ends in `.jsonl` or `.parquet`; not overwritten.
        with_positions: Write what the teacher says at each position too. In JSON a probability of 0
            has null as its logarithm.
        progress: Called with (done, total) rows.

    Raises:
        InputError: The path is of neither kind, is there already, or the store has no positions.
        DamagedStoreError: A shard is damaged; no file is left.
    """
    opened = {".jsonl": _jsonl, ".parquet": _parquet}.get(output.suffix)
    if opened is None:
        raise InputError(
            f"--output: {output} is of no known kind; write FILE.jsonl or FILE.parquet"
        )
    if output.exists():
        raise InputError(f"--output: {output} is there already; write another path, or move it")
    if with_positions and store.settings.capture is None:
        raise InputError(f"--positions: {store.folder} keeps text alone; leave it out")
    rows = (_row(row, with_positions) for row in store)
    done = 0
    with replacing(output) as staged, opened(staged, _schema(store, with_positions)) as append:
        while chunk := list(islice(rows, 64 if with_positions else 4096)):
            append(chunk)
            done += len(chunk)
            progress(done, len(store))


def _row(row: StoreRow, with_positions: bool) -> dict[str, Any]:
    cells = {name: getattr(row, name) for name in COLUMNS} | {"token_ids": row.token_ids.tolist()}
    if with_positions:
        assert row.positions is not None
        cells["positions"] = _positions(row.positions)
    return cells


def _positions(positions: Positions) -> dict[str, Any]:
    cells = {name: value.tolist() for name, value in vars(positions).items()}
    if isinstance(positions, SampledPositions):
        drawn = positions.counts > 0
        for name in ("token_ids", "counts"):
            kept = zip(getattr(positions, name), drawn, strict=True)
            cells[name] = [values[is_drawn].tolist() for values, is_drawn in kept]
    return cells


def _schema(store: Store, with_positions: bool) -> pa.Schema:
    schema = pa.schema([SCHEMA.field(name) for name in COLUMNS])
    if with_positions and store.settings.capture is not None:
        fields = POSITIONS[store.settings.capture["kind"]]
        schema = schema.append(pa.field("positions", pa.struct(list(fields.items()))))
    return schema


@contextmanager
def _jsonl(path: Path, schema: pa.Schema) -> Iterator[Append]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(
            json.dumps(without_nan(row), ensure_ascii=False) + "\n" for row in rows
        )


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Append]:
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        yield lambda rows: file.write_table(pa.Table.from_pylist(rows, schema=schema))
