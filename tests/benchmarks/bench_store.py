"""How fast a teacher store of ten million positions opens and is read, and in how much memory.

    python tests/benchmarks/bench_store.py [--output FILE] [--rows N] [--top-k K]

Rows of a 20-token prompt and a 100-token completion, top-k log-probabilities from random logits with a
Zipf-like slope. Each figure comes from a fresh process on a warm page cache. Memory is the process's own
(RssAnon): pages of mapped files are the system's to take back, and are given beside it.

`positions_per_s` is of positions alone, in random order, 16 rows at once, as a training reads them in its
own process: of that store, and of one with a tenth of the rows, whose completions have 20 tokens.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from circumstances import RESULTS, circumstances, save

from llmkd.teacher_data.captured import TopKPositions
from llmkd.teacher_data.store import Store, StoreRow, StoreSettings, StoreWriter, tokens_key
from llmkd.teacher_data.store.verify import verify

VOCABULARY, PROMPT = 32_000, 20
DIFFERENT = 64
"""Different rows' positions; the others repeat them."""
TIMED = 20
BATCH, TRAINING_BATCH = 32, 16


def positions(seed: int, top_k: int, completion: int) -> TopKPositions:
    draw = np.random.default_rng(seed)
    ranks = np.log(np.arange(1, 4 * top_k + 1))
    logits = -1.2 * ranks + draw.normal(0, 0.7, (completion, 4 * top_k))
    ids = np.stack([draw.choice(VOCABULARY, top_k, replace=False) for _ in range(completion)])
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    kept = np.sort(log_probs)[:, : -top_k - 1 : -1]
    tail = np.log1p(-np.exp(kept).sum(-1))
    kinds = (np.int32, np.float32, np.float32, np.float32)
    arrays = (ids, kept, tail, log_probs[:, 0])
    return TopKPositions(*(array.astype(kind) for array, kind in zip(arrays, kinds, strict=True)))


def write(folder: Path, num_rows: int, top_k: int, completion: int) -> dict[str, float]:
    settings = StoreSettings(
        kind="generated",
        teacher="random",
        teacher_digest="",
        tokenizer_digest="",
        vocab_size=VOCABULARY,
        engine="transformers",
        seed=0,
        data_digest="",
        num_rows=num_rows,
        rows_per_shard=256,
        sampling={"temperature": 1.0},
        capture={"kind": "top_k", "top_k": top_k, "temperature": 1.0, "precision": "quantised"},
    )
    kept = [positions(seed, top_k, completion) for seed in range(DIFFERENT)]

    def row(number: int) -> StoreRow:
        ids = np.random.default_rng(number).integers(VOCABULARY, size=PROMPT + completion)
        ids = ids.astype(np.int32)
        text = "word " * completion
        spans = [PROMPT, PROMPT + completion]
        return StoreRow(
            number, 0, tokens_key(ids), ids, spans, 0, "prompt", text, "stop",
            kept[number % DIFFERENT],
        )  # fmt: skip

    started = time.perf_counter()
    with StoreWriter(folder, settings) as writer:
        for number in list(writer.missing):
            writer.write(number, map(row, writer.rows_of(number)))
        written = time.perf_counter()
        counts = writer.finish()
    finished = time.perf_counter()
    return {
        "num_rows": counts.num_rows,
        "num_positions": counts.num_positions,
        "num_shards": settings.num_shards,
        "top_k": top_k,
        "mib": round(counts.num_bytes / 2**20, 1),
        "bytes_per_position": round(counts.num_bytes / counts.num_positions, 2),
        "payload_bytes_per_position": round(counts.num_payload_bytes / counts.num_positions, 2),
        "positions_written_per_s": round(counts.num_positions / (written - started)),
        "seconds_to_finish": round(finished - written, 2),
    }


def memory_mib() -> dict[str, float]:
    status = Path("/proc/self/status").read_text()
    kinds = {"own_mib": "RssAnon", "mapped_mib": "RssFile"}
    return {
        name: int(re.search(rf"{kind}:\s+(\d+)", status)[1]) / 1024  # pyright: ignore
        for name, kind in kinds.items()
    }


def read_alone(folder: str) -> None:
    """In a process of its own: opens the store, then reads all of it in random order."""
    before, started = memory_mib(), time.perf_counter()
    store = Store.open(folder)
    open_s, opened = time.perf_counter() - started, memory_mib()
    order = np.random.default_rng(0).permutation(len(store)).tolist()
    every, taken = len(order) // 20, []
    for start in range(0, 20 * every, every):
        started = time.perf_counter()
        for index in order[start : start + every]:
            _ = store[index]
        taken.append(every / (time.perf_counter() - started))
    read = memory_mib()
    keys = np.random.default_rng(0).bytes(16 * 10_000)
    started = time.perf_counter()
    store.find(np.frombuffer(keys, np.uint8).reshape(-1, 16))
    found_s = time.perf_counter() - started
    figures = {
        "open_s": open_s,
        "open": {name: round(opened[name] - before[name], 1) for name in before},
        "read_all": {name: round(read[name] - opened[name], 1) for name in before},
        "rows_per_s_by_twentieth": [round(value) for value in taken],
        "positions_per_s": positions_per_s(store, order),
        "finds_per_s": round(10_000 / found_s),
    }
    print(json.dumps(figures))  # noqa: T201


def positions_per_s(store: Store, order: list[int]) -> dict[str, int]:
    """By batches of one training process, in twenty parts, after each shard was opened once."""
    batches = [order[i : i + TRAINING_BATCH] for i in range(0, len(order), TRAINING_BATCH)]
    every, speeds = max(1, len(batches) // TIMED), []
    for start in range(0, len(batches) + 1 - every, every):
        started, num_read = time.perf_counter(), 0
        for batch in batches[start : start + every]:
            found = store.positions(batch)
            assert found is not None
            num_read += len(found.label_log_prob)
        speeds.append(num_read / (time.perf_counter() - started))
    p20, median, p80 = np.percentile(speeds, [20, 50, 80])
    return {"median": round(median), "p20": round(p20), "p80": round(p80)}


def count(rows: list[StoreRow]) -> int:
    return sum(len(row.token_ids) for row in rows)


def read_by_workers(folder: str, num_workers: int, num_rows: int) -> None:
    """In a process of its own: random rows through a DataLoader, of which counts come back."""
    from torch.utils.data import DataLoader

    store = Store.open(folder)
    order = np.random.default_rng(1).permutation(len(store))[:num_rows].tolist()
    loader = DataLoader(
        store, batch_size=BATCH, sampler=order, num_workers=num_workers, collate_fn=count,
        persistent_workers=num_workers > 0,
    )  # fmt: skip
    speeds = []
    for _ in range(2):
        # The first round reads every shard through, to check it.
        started, num_tokens = time.perf_counter(), sum(loader)
        speeds.append(num_rows / (time.perf_counter() - started))
    assert num_tokens == store.num_tokens[order].sum()
    first, later = (round(speed) for speed in speeds)
    print(json.dumps({"rows_per_s_at_first": first, "rows_per_s": later}))  # noqa: T201


def fresh(*arguments: object) -> dict:
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def opening(folder: Path) -> dict[str, float]:
    program = (
        "import sys, time; from llmkd.teacher_data.store import Store; started ="
        " time.perf_counter(); Store.open(sys.argv[1]); print(time.perf_counter() - started)"
    )
    times = []
    for _ in range(TIMED + 1):
        command = [sys.executable, "-c", program, str(folder)]
        times.append(float(subprocess.run(command, capture_output=True, check=True).stdout))
    p20, p80 = np.percentile(times[1:], [20, 80])
    return {
        "median_s": round(statistics.median(times[1:]), 4),
        "p20": round(p20, 4),
        "p80": round(p80, 4),
    }


def verifying(folder: Path) -> float:
    started = time.perf_counter()
    assert verify(folder) == []
    return round(time.perf_counter() - started, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = RESULTS / "store_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--read", metavar="STORE", help="internal")
    parser.add_argument("--workers", type=int, help="internal")
    args = parser.parse_args()
    if args.workers is not None:
        return read_by_workers(args.read, args.workers, args.rows)
    if args.read:
        return read_alone(args.read)
    begun = circumstances()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        written = write(folder, args.rows, args.top_k, 100)
        short = Path(name) / "short"
        write(short, args.rows // 10, args.top_k, 20)
        sample = min(args.rows, 20_000)
        result = {
            **begun,
            "store": written,
            "open": opening(folder),
            "one_process": fresh("--read", folder),
            "one_process_rows_of_20": fresh("--read", short),
            "workers": {
                str(n): fresh("--read", folder, "--workers", n, "--rows", sample) for n in (0, 1, 2)
            },
            "seconds_to_verify": verifying(folder),
        }
    save(args.output, result)
    print(json.dumps(result, indent=2))  # noqa: T201
    return None


if __name__ == "__main__":
    main()
