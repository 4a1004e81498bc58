"""Bytes per token of a teacher store, what quantising costs, and the speed of reading and writing.

    python tests/benchmarks/bench_store_size.py [--output FILE] [--model FOLDER --texts FILE]

Data: `zipf_teacher` at three vocabularies, and where its folder is there a real model's logits on real
texts. Rows of 20, 200 and 1000 positions are cut from the same positions.

- raw: int32 ids and float16 log-probabilities (of samples: int32 ids and uint8 counts), tail or entropy
  and label in float16, nothing else.
- store: all of the blob, headers included.
- target of the top 50: 1.1 times the entropy of the id set plus 7 bits per log-probability. The
  entropy is `ZipfTeacher.set_bits`, the exact one of the source: no coder has less, so that none gains
  by an estimate that is too high. A real model's sets have no known law. What stands there is the
  entropy of as many independent yes-or-no draws, one per token with its measured frequency, given that
  k come out: what a coder needs that knows these and nothing else, and no bound for one that knows more.
- containers: the same whole numbers (ids or gaps between sorted ids, log-probabilities in steps) as
  columns of Parquet, in the best of its encodings, and of Arrow IPC, both under zstd; all positions in
  one row group, and a row group (a record batch) for every row, which is what reading rows in random
  order takes.
- errors, in nats: KL of the exact k + 1 outcomes to the kept ones; the change of KL(p || q) to another
  model q, and the norm of the change of its gradient to q's logits, relative to the gradient's norm.
- speed: one thread, K = 50, median of the rounds.
"""

import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from zipf_teacher import ZipfTeacher, draw_of, log_softmax, sampled_of, top_k_of

from llmkd.teacher_data.captured import Positions, SampledPositions, TopKPositions
from llmkd.teacher_data.store.codec import decode, encode
from llmkd.teacher_data.store.quantise import to_steps

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"
VOCAB_SIZES = [32_000, 128_256, 151_936]
ROW_LENGTHS = [20, 200, 1000]
POSITIONS, AT_ONCE, SETS, ROUNDS = 1000, 50, 200, 50
DRAWS = 50
ENCODINGS = ["PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", "RLE_DICTIONARY"]


def joined(parts: list[Any]) -> Any:
    """Positions of several calls as one; samples are padded to the widest."""

    def column(name: str) -> np.ndarray:
        arrays = [getattr(part, name) for part in parts]
        if arrays[0].ndim == 2:
            k = max(array.shape[1] for array in arrays)
            arrays = [np.pad(array, [(0, 0), (0, k - array.shape[1])]) for array in arrays]
        return np.concatenate(arrays)

    return type(parts[0])(**{name: column(name) for name in vars(parts[0])})


def rows_of(positions: Positions, length: int) -> list[Any]:
    arrays = vars(positions)
    return [
        type(positions)(**{name: array[start : start + length] for name, array in arrays.items()})
        for start in range(0, len(positions.token_ids), length)
    ]


def zipf_log_probs(teacher: ZipfTeacher) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(1)
    for _ in range(0, POSITIONS, AT_ONCE):
        yield teacher.log_probs(AT_ONCE, draw)


def real_log_probs(model_folder: Path, texts: Path) -> Iterator[np.ndarray]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    found = 0
    for line in texts.read_text().splitlines():
        ids = tokenizer(json.loads(line)["text"], return_tensors="pt").input_ids[:, :200]
        with torch.no_grad():
            logits = model(ids).logits[0].double().numpy()
        yield log_softmax(logits)[: POSITIONS - found]
        found += len(logits)
        if found >= POSITIONS:
            return


def captured(
    log_probs: Iterator[np.ndarray], top_ks: list[int]
) -> tuple[dict[int, TopKPositions], SampledPositions]:
    draw, tops, drawn = np.random.default_rng(2), {k: [] for k in top_ks}, []
    for whole in log_probs:
        labels = draw_of(whole, 1, draw)[:, 0]
        drawn.append(sampled_of(whole, labels, DRAWS, draw))
        for k, found in tops.items():
            found.append(top_k_of(whole, labels, k))
    return {k: joined(found) for k, found in tops.items()}, joined(drawn)


def bytes_per_token(positions: Positions, precision: Any = "quantised") -> dict[str, float]:
    sizes = {}
    for length in ROW_LENGTHS:
        blobs = [encode(row, precision=precision) for row in rows_of(positions, length)]
        sizes[f"rows of {length}"] = round(sum(map(len, blobs)) / len(positions.token_ids), 2)
    return sizes


def measure_top_k(top: TopKPositions, set_bits: float, vocab_size: int) -> dict[str, Any]:
    k = top.token_ids.shape[1]
    entropy_and_7_bits = set_bits / 8 + k * 7 / 8
    size = bytes_per_token(top)
    return {
        "raw": k * 6 + 4,
        "id_set_entropy": round(set_bits / 8, 2),
        "id_set_uniform": round(log2_binomial(vocab_size, k) / 8, 2),
        "entropy_and_7_bits": round(entropy_and_7_bits, 2),
        "target": round(1.1 * entropy_and_7_bits, 2),
        "store": size,
        "store_to_entropy_and_7_bits": {
            rows: round(found / entropy_and_7_bits, 3) for rows, found in size.items()
        },
        "store_float32": bytes_per_token(top, "float32"),
        "containers": containers(top),
        "mass_of_top_k": round(float(np.exp(top.log_probs).sum(1).mean()), 3),
        "error": quantising_error(top),
    }


def measure_sampled(drawn: SampledPositions) -> dict[str, Any]:
    tokens = (drawn.counts > 0).sum() / len(drawn.counts)
    found = decode(encode(drawn, precision="quantised"))
    errors = (np.abs(getattr(found, x) - getattr(drawn, x)) for x in ("entropy", "label_log_prob"))
    entropy_error, label_error = errors
    return {
        "draws": DRAWS,
        "different_tokens": round(float(tokens), 2),
        "mean_entropy_nats": round(float(drawn.entropy.mean()), 3),
        "raw": round(float(tokens * 5 + 5), 2),
        "target": 40,
        "store": bytes_per_token(drawn),
        "error": {
            "entropy_mean": significant(entropy_error.mean()),
            "entropy_max": significant(entropy_error.max()),
            "label_mean": significant(label_error.mean()),
            "label_max": significant(label_error.max()),
        },
    }


def log2_binomial(n: int, k: int) -> float:
    i = np.arange(1, k + 1)
    return float(np.log2((n - k + i) / i).sum())


def independent_set_bits(ids: np.ndarray, vocab_size: int) -> float:
    """Entropy in bits of independent draws with the tokens' frequencies, given their number."""
    share = np.bincount(ids.reshape(-1), minlength=vocab_size) / len(ids)
    share = share[(share > 0) & (share < 1)]
    bits = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)).sum()
    # Their number is nearly normal.
    return float(bits - 0.5 * np.log2(2 * np.pi * np.e * (share * (1 - share)).sum()))


def outcomes(log_probs: np.ndarray, tail_log_prob: np.ndarray) -> np.ndarray:
    together = np.concatenate([log_probs, tail_log_prob[:, None]], 1).astype(np.float64)
    return log_softmax64(together)


def log_softmax64(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def quantising_error(top: TopKPositions) -> dict[str, float]:
    found, order = decode(encode(top, precision="quantised")), top.token_ids.argsort(1)
    assert isinstance(found, TopKPositions)
    exact = outcomes(np.take_along_axis(top.log_probs, order, 1), top.tail_log_prob)
    kept = outcomes(found.log_probs, found.tail_log_prob)
    noise = np.random.default_rng(3).standard_normal(exact.shape)
    student = log_softmax64(0.8 * exact + noise)
    kl = (np.exp(exact) * (exact - kept)).sum(1)
    before, after = ((np.exp(p) * (p - student)).sum(1) for p in (exact, kept))
    gradient, change = np.exp(student) - np.exp(exact), np.exp(exact) - np.exp(kept)
    return {
        "kl_mean": significant(kl.mean()),
        "kl_max": significant(kl.max()),
        "kl_to_student": significant(before.mean()),
        "kl_to_student_change": significant((after - before).mean()),
        "kl_to_student_change_standard_error": significant((after - before).std() / len(kl) ** 0.5),
        "kl_to_student_change_absolute": significant(np.abs(after - before).mean()),
        "gradient_change": significant(np.linalg.norm(change) / np.linalg.norm(gradient)),
        "label_max": significant(np.abs(found.label_log_prob - top.label_log_prob).max()),
    }


def significant(value: Any) -> float:
    return float(f"{float(value):.3g}")


def containers(top: TopKPositions) -> dict[str, Any]:
    """Bytes per token of the same numbers in Parquet and Arrow, with row groups of one row or of all."""
    order = top.token_ids.argsort(1)
    ids = np.take_along_axis(top.token_ids, order, 1)
    steps, tail = to_steps(np.take_along_axis(top.log_probs, order, 1), top.tail_log_prob)
    k = ids.shape[1]
    columns = {
        "ids": ids.reshape(-1),
        "gaps": np.diff(ids, axis=1, prepend=-1).reshape(-1),
        "steps": steps.reshape(-1).astype(np.uint8),
        "tail": tail,
        "label": top.label_log_prob.astype(np.float16).view(np.int16),
    }
    found = {}
    for name, length in (("a row group for all", POSITIONS), ("a row group per row of 200", 200)):
        best = {}
        for column, values in columns.items():
            group = length * (k if column in ("ids", "gaps", "steps") else 1)
            sizes = {
                encoding: parquet_bytes(values, encoding, group) for encoding in encodings(values)
            }
            encoding = min(sizes, key=sizes.__getitem__)
            best[column] = {
                "bytes": round(sizes[encoding] / len(top.token_ids), 2),
                "encoding": encoding,
            }
        kept = ["gaps", "steps", "tail", "label"]
        found[f"parquet, {name}"] = best | {
            "total with gaps": round(sum(best[column]["bytes"] for column in kept), 2)
        }
        found[f"arrow, {name.replace('row group', 'record batch')}"] = round(
            arrow_bytes([columns[column] for column in kept], length, k) / len(top.token_ids), 2
        )
    return found


def encodings(values: np.ndarray) -> list[str]:
    """Delta is for 32 bits, and splitting bytes for more than one."""
    return ENCODINGS if values.dtype == np.int32 else ["PLAIN", "RLE_DICTIONARY"]


def parquet_bytes(values: np.ndarray, encoding: str, row_group: int) -> int:
    """Of a file of one column; the footer, which every row group makes longer, included."""
    file = io.BytesIO()
    by_dictionary = encoding == "RLE_DICTIONARY"
    pq.write_table(
        pa.table({"x": values}),
        file,
        compression="zstd",
        row_group_size=row_group,
        use_dictionary=by_dictionary,
        column_encoding=None if by_dictionary else {"x": encoding},
        write_statistics=False,
        store_schema=False,
    )
    return file.tell()


def arrow_bytes(columns: list[np.ndarray], row_group: int, k: int) -> int:
    """Of a file of record batches; a position is a row, ids and steps are lists of fixed length."""
    arrays = [
        pa.FixedSizeListArray.from_arrays(pa.array(x), k) if i < 2 else pa.array(x)
        for i, x in enumerate(columns)
    ]
    table = pa.table(arrays, names=[str(i) for i in range(len(arrays))])
    file = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd"))
    with pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=row_group)
    return file.tell()


def speed(positions: Positions, precision: Any) -> dict[str, dict[str, int]]:
    found = {}
    for length in ROW_LENGTHS:
        row = rows_of(positions, length)[0]
        blob = encode(row, precision=precision)
        found[f"rows of {length}"] = {
            "encode_positions_per_s": per_second(length, lambda: encode(row, precision=precision)),  # noqa: B023
            "decode_positions_per_s": per_second(length, lambda: decode(blob)),  # noqa: B023
        }
    return found


def per_second(positions: int, function: Callable[[], object]) -> int:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return round(positions / statistics.median(times))
