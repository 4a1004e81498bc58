"""What packing and batches of like length save, and what preparing a large data set takes.

    python tests/benchmarks/bench_data.py [--output FILE] [--steps N] [--rows N]

Training: the same rows, of lengths as in a chat data set (log-normal, median 180 tokens, at most 1024),
through a train stage each: trained tokens per second after a warm-up, student and teacher included.
Preparing: a JSONL file is tokenized in a fresh process, whose peak resident size is taken.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from circumstances import RESULTS, circumstances, save

from llmkd.data.addition import build_tokenizer
from llmkd.recipe.schema import TrainStage

SHAPE = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
BATCH, MAX_LENGTH = 16, 1024
WARM_UP_LINES = 1
KINDS = {
    "padded, random order": {},
    "padded, group_by_length": {"train_sampling_strategy": "group_by_length"},
    "packed": {"packing": True},
}


def write_rows(path: Path, num_rows: int, seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    lengths = np.clip(np.exp(draw.normal(np.log(180), 0.8, num_rows)), 8, MAX_LENGTH - 2)
    with path.open("w") as file:
        for length in lengths.astype(int):
            digits = draw.integers(10, size=length)
            file.write(json.dumps({"text": "".join(map(str, digits))}) + "\n")


def speed(folder: Path, rows: Path, kind: str, steps: int) -> dict[str, float]:
    from llmkd.training.train import run_train

    settings = dict(KINDS[kind])
    is_packed = settings.pop("packing", False)
    # As many tokens a step, near enough: a packed sequence holds several rows.
    batch = BATCH // 4 if is_packed else BATCH
    stage = TrainStage.model_validate(
        {
            "kind": "train",
            "student": {"kind": "scratch", "config": SHAPE},
            "teacher": {"model_name_or_path": str(folder / "teacher")},
            "data": {"dataset_name": str(rows), "max_length": MAX_LENGTH, "packing": is_packed},
            "losses": [{"kind": "forward_kl"}],
            "trainer": {
                "max_steps": steps,
                "per_device_train_batch_size": batch,
                "logging_steps": max(1, steps // 10),
                "save_strategy": "no",
                **settings,
            },
        }
    )
    target = folder / kind.replace(" ", "_")
    run_train(stage, target, name=kind, seed=0)
    log = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["tokens_per_s"] for line in log[WARM_UP_LINES:]]
    counts = json.loads((target / "data.json").read_text())
    return {
        "trained_tokens_per_s_median": round(statistics.median(speeds)),
        "p20": round(float(np.percentile(speeds, 20))),
        "p80": round(float(np.percentile(speeds, 80))),
        "batch_size": batch,
        "num_rows": counts["num_rows"],
        "num_sequences": counts["num_sequences"],
    }


def prepare_rows(rows: str) -> None:
    """In a process of its own: tokenizes, and prints time and memory."""
    import resource

    from llmkd.data.prepare import prepare
    from llmkd.recipe.data import DatasetSource

    def peak_mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    source = DatasetSource(dataset_name=rows, max_length=MAX_LENGTH)
    silent = lambda done, total, **figures: None  # noqa: E731
    found, before = [], peak_mib()
    for _ in range(2):
        started = time.perf_counter()
        counts = prepare(source, build_tokenizer(), seed=0, progress=silent).counts
        found.append(time.perf_counter() - started)
    print(  # noqa: T201
        json.dumps(
            {
                "num_rows": counts.num_rows,
                "num_tokens": counts.num_tokens,
                "file_mib": round(Path(rows).stat().st_size / 2**20, 1),
                "seconds_tokenizing": round(found[0], 2),
                "seconds_from_cache": round(found[1], 2),
                "peak_extra_memory_mib": round(peak_mib() - before, 1),
            }
        )
    )


def preparing(folder: Path, num_rows: int) -> dict[str, float]:
    path = folder / f"{num_rows}.jsonl"
    write_rows(path, num_rows)
    environment = os.environ | {"LLMKD_CACHE": str(folder / f"cache-{num_rows}")}
    command = [sys.executable, __file__, "--prepare", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def save_teacher(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    shape = {key: value for key, value in SHAPE.items() if key != "model_type"}
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer)))
    teacher.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = RESULTS / "data_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--steps", type=int, default=44)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--prepare", metavar="FILE", help="internal")
    args = parser.parse_args()
    if args.prepare:
        return prepare_rows(args.prepare)
    begun = circumstances()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LLMKD_CACHE"] = str(folder / "cache")
        save_teacher(folder)
        rows = folder / "train.jsonl"
        write_rows(rows, 2000)
        training = {kind: speed(folder, rows, kind, args.steps) for kind in KINDS}
        result = {
            **begun,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "shape": SHAPE,
            "max_length": MAX_LENGTH,
            "training": training,
            "preparing": [preparing(folder, args.rows // 10), preparing(folder, args.rows)],
        }
    save(args.output, result)
    print(json.dumps(result, indent=2))  # noqa: T201
    return None


if __name__ == "__main__":
    main()
