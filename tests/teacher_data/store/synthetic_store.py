"""Stores of made-up rows, for tests and for programs that tests kill.

python synthetic_store.py FOLDER SETTINGS    writes a store, after a line on stdout
"""

import json
import sys
from pathlib import Path

import numpy as np

from llmkd.teacher_data.captured import SampledPositions, TopKPositions
from llmkd.teacher_data.store import StoreRow, StoreSettings, StoreWriter, tokens_key

VOCABULARY, TOP_K = 40, 5
CAPTURES = {
    "top_k": {"kind": "top_k", "top_k": TOP_K, "temperature": 1.0, "precision": "float32"},
    "sampled": {"kind": "sampled", "num_samples": 8, "temperature": 1.0},
    None: None,
}


def make_settings(capture="top_k", **changes):
    given = {
        "kind": "generated",
        "teacher": "a/teacher",
        "teacher_digest": "0123",
        "tokenizer_digest": "4567",
        "vocab_size": VOCABULARY,
        "engine": "transformers",
        "seed": 0,
        "data_digest": "89ab",
        "num_rows": 23,
        "rows_per_shard": 5,
        "num_samples": 2,
        "sampling": {"temperature": 1.0, "stop": []},
        "capture": CAPTURES[capture],
    }
    return StoreSettings(**(given | changes))


def make_rows(settings, numbers):
    """Rows that depend on their place and the seed alone."""
    return (
        make_row(settings, number, sample)
        for number in numbers
        for sample in range(settings.num_samples)
    )


def make_row(settings, number, sample):
    draw = np.random.default_rng([settings.seed, number, sample])
    num_prompt, num_positions = draw.integers(1, 6, size=2).tolist()
    token_ids = draw.integers(VOCABULARY, size=num_prompt + num_positions).astype(np.int32)
    is_generated = settings.kind == "generated"
    return StoreRow(
        number=number,
        sample=sample,
        tokens_key=tokens_key(token_ids),
        token_ids=token_ids,
        spans=[num_prompt, num_prompt + num_positions],
        num_cut=int(draw.integers(2)),
        prompt=f"prompt {number}" if is_generated else None,
        completion=f"Ünïcode {number}.{sample}" if is_generated else None,
        finish_reason=str(draw.choice(["stop", "length"])) if is_generated else None,  # pyright: ignore
        positions=make_positions(settings.capture, draw, num_positions),
    )


def make_positions(capture, draw, num_positions):
    if capture is None:
        return None
    logits = 3 * draw.standard_normal((num_positions, VOCABULARY))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    label = np.log(probs[:, 0]).astype(np.float32)
    if capture["kind"] == "top_k":
        ids = np.sort(np.argsort(-probs)[:, :TOP_K])
        kept = np.take_along_axis(probs, ids, -1)
        tail = np.log1p(-kept.sum(-1)).astype(np.float32)
        return TopKPositions(ids.astype(np.int32), np.log(kept).astype(np.float32), tail, label)
    entropy = -(probs * np.log(probs)).sum(-1)
    counts = np.stack([draw.multinomial(capture["num_samples"], p) for p in probs])
    ids = np.sort(np.argsort(-counts)[:, : (counts > 0).sum(-1).max()])
    counts = np.take_along_axis(counts, ids, -1)
    # Exact in half precision too.
    entropy, label = (a.astype(np.float16).astype(np.float32) for a in (entropy, label))
    return SampledPositions(ids.astype(np.int32), counts.astype(np.int32), entropy, label)


def write_store(folder, settings, share=(0, 1)):
    with StoreWriter(folder, settings, share) as writer:
        for number in list(writer.missing):
            writer.write(number, make_rows(settings, writer.rows_of(number)))
        return writer.finish()


def content(folder):
    """The bytes of every file."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def same_row(a, b):
    """Whether two rows are equal; of samples, what is drawn, whatever the padding."""
    if _positions_text(a.positions) != _positions_text(b.positions):
        return False
    return all(
        np.array_equal(value, getattr(b, name))
        if name == "token_ids"
        else value == getattr(b, name)
        for name, value in vars(a).items()
        if name != "positions"
    )


def _positions_text(positions):
    if isinstance(positions, SampledPositions):
        drawn = [
            sorted(zip(ids.tolist(), counts.tolist(), strict=True))
            for ids, counts in zip(positions.token_ids, positions.counts, strict=True)
        ]
        kept = [[pair for pair in pairs if pair[1]] for pairs in drawn]
        return repr((kept, positions.entropy.tolist(), positions.label_log_prob.tolist()))
    return None if positions is None else repr([v.tolist() for v in vars(positions).values()])


if __name__ == "__main__":
    given = StoreSettings(**json.loads(sys.argv[2]))
    print("ready", flush=True)  # noqa: T201
    write_store(Path(sys.argv[1]), given)
