"""Bytes per token of a teacher store, what quantising costs, and the speed of reading and writing.

    python tests/benchmarks/bench_store_size.py [--output FILE] [--real-data FOLDER]

Data: `zipf_teacher` at three vocabularies, and, where the folder of real data is there, the logits of
stories260K on TinyStories. Rows of 20, 200 and 1000 positions are cut from the same positions.

- raw: int32 ids and float16 log-probabilities (of samples: int32 ids and uint8 counts), tail or entropy
  and label in float16, nothing else.
- store: all of the blob, headers included.
- target of the top 50: 1.1 times the entropy of the id set plus 7 bits per log-probability. The
  entropy is `ZipfTeacher.set_bits`, the exact one of the source: no coder has less, so that none gains
  by an estimate that is too high. A real model's sets have no known law. What stands there is the
  entropy of as many independent yes-or-no draws, one per token with its measured frequency, given that
  k come out: what a coder needs that knows these and nothing else, and no bound for one that knows more.
- containers: the same numbers in Parquet and Arrow, see `store_containers`.
- errors, in nats: KL of the exact k + 1 outcomes to the kept ones; the change of KL(p || q) to another
  model q, and the norm of the change of its gradient to q's logits, relative to the gradient's norm.
- speed: one thread, one row again and again, and 16 of it together; median of 50 rounds.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from circumstances import RESULTS, ROOT, circumstances, load_average, save
from store_containers import measure_containers, positions_per_s
from zipf_teacher import ZipfTeacher, draw_of, log_softmax, sampled_of, top_k_of

from llmkd.teacher_data.captured import Positions, SampledPositions, TopKPositions
from llmkd.teacher_data.store.codec import decode, encode

REAL = ROOT.parent / "shared" / "data"
VOCAB_SIZES = [32_000, 128_256, 151_936]
ROW_LENGTHS = [20, 200, 1000]
POSITIONS, AT_ONCE, SETS = 1000, 50, 200
DRAWS = 50


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
        "containers": measure_containers(top),
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


def speed(positions: Positions, precision: Any = "quantised") -> dict[str, dict[str, int]]:
    return {
        f"rows of {length}": speed_of_row(rows_of(positions, length)[0], precision)
        for length in ROW_LENGTHS
    }


def speed_of_row(row: Positions, precision: Any) -> dict[str, int]:
    blob, length = encode(row, precision=precision), len(row.token_ids)
    return {
        "encode_positions_per_s": positions_per_s(lambda: encode(row, precision=precision), length),
        "decode_positions_per_s": positions_per_s(lambda: decode(blob), length),
        "decode_16_rows_together_positions_per_s": positions_per_s(
            lambda: decode(*[blob] * 16), 16 * length
        ),
    }


def measure_zipf(vocab_size: int) -> dict[str, Any]:
    teacher = ZipfTeacher.of_size(vocab_size)
    tops, drawn = captured(zipf_log_probs(teacher), [50])
    bits = teacher.set_bits(tops[50].token_ids[:SETS])
    error = bits.std() / SETS**0.5 / 8
    return {
        "top 50": {
            "id_set_entropy_is": f"exact, mean of {SETS} positions, standard error {error:.2f} bytes",
            **measure_top_k(tops[50], bits.mean(), vocab_size),
        },
        "sampled": measure_sampled(drawn),
        "speed": {
            "top 50, quantised": speed(tops[50]),
            "top 50, float32": speed(tops[50], "float32"),
            "sampled": speed(drawn),
        },
    }


def measure_real(folder: Path) -> dict[str, Any]:
    model, texts = folder / "models/stories260K/hf", folder / "tinystories/validation.jsonl"
    tops, drawn = captured(real_log_probs(model, texts), [16, 50])
    found: dict[str, Any] = {
        f"top {k}": {
            "id_set_entropy_is": "an estimate, see the head of the benchmark",
            **measure_top_k(top, independent_set_bits(top.token_ids, 512), 512),
        }
        for k, top in tops.items()
    }
    return found | {"sampled": measure_sampled(drawn)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = RESULTS / "store_size_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--real-data", type=Path, default=REAL, help="left out where it is not")
    args = parser.parse_args()
    torch.set_num_threads(1)
    done: dict[str, Any] = {
        **circumstances(),
        "versions": {
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
            "torch": torch.__version__,
        },
        "positions": POSITIONS,
        "bytes_per_token": {f"zipf, vocabulary of {v}": measure_zipf(v) for v in VOCAB_SIZES},
    }
    if args.real_data.is_dir():
        done["bytes_per_token"]["stories260K, vocabulary of 512"] = measure_real(args.real_data)
    done["load_average_at_end"] = load_average()
    save(args.output, done)


if __name__ == "__main__":
    main()
