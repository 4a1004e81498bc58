"""The memory that `llmkd check --launch` expects of each process, beside what each of two took.

    python tests/benchmarks/bench_scale_memory.py [--output FILE] [--engines alone ddp ...]

Real trainings on a CPU: the resident size that a process had at most until training ended, with all that Python, torch
and the engine take, where the C library gives freed memory back. A Llama of 42 million parameters; a smaller teacher whole in each process. What
libraries take is measured by the same training of next to no weights; `beyond` is the ratio without
it on either side. `with_saving_mib` is of each process until its end. With `--engines`, the others' figures stay in the file.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from circumstances import RESULTS, circumstances, save
from scale_runs import Bench

from llmkd.check import check
from llmkd.launch import ENGINES

VOCABULARY, LENGTH, BATCH, STEPS = 8192, 64, 2, 4
STUDENT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
}
TEACHER = {**STUDENT, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
PRECISIONS: dict[str, dict[str, Any]] = {"float32": {}, "bf16": {"bf16": True}}


TINY = {**STUDENT, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
ALONE = "alone"
# Left to itself, glibc keeps much of what is freed, such as the whole student after it was taken apart.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def compare(
    bench: Bench, engine: str | None, student: dict[str, Any], extra: dict[str, Any]
) -> dict[str, Any]:
    trainer = {"max_steps": STEPS, "per_device_train_batch_size": BATCH, **extra}
    teacher = TINY if student is TINY else TEACHER
    recipe = bench.recipe(VOCABULARY, LENGTH, student, teacher, trainer)
    count = 2 if engine else 1
    report = check(recipe, launch=engine, num_processes=count if engine else None)
    memory = report.stages["train"].facts["memory"]
    assert memory.value is not None
    measured = bench.measure(recipe, engine, count, **GIVES_BACK)
    estimated = round(memory.value / 2**20)
    return {
        "measured_mib": measured.training_mib,
        "with_saving_mib": measured.peak_mib,
        "estimated_mib": estimated,
        "ratio": round(estimated / measured.training_mib, 2),
        "parts_mib": {name: round(size / 2**20) for name, size in memory.parts.items()},
    }


def of_engine(bench: Bench, name: str) -> dict[str, Any]:
    engine = None if name == ALONE else name
    tiny = compare(bench, engine, TINY, {})
    found: dict[str, Any] = {"tiny": tiny}
    for precision, extra in PRECISIONS.items():
        case = compare(bench, engine, STUDENT, extra)
        expected = case["estimated_mib"] - tiny["estimated_mib"]
        taken = case["measured_mib"] - tiny["measured_mib"]
        found[precision] = {**case, "beyond": round(expected / taken, 2)}
        print(name, precision, json.dumps(found[precision]), flush=True)  # noqa: T201
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "scale_memory_cpu.json")
    parser.add_argument("--engines", nargs="+", default=[ALONE, *ENGINES])
    args, begun = parser.parse_args(), circumstances()
    cases = json.loads(args.output.read_text())["cases"] if args.output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        cases |= {name: of_engine(bench, name) for name in args.engines}
    shapes = {"student": STUDENT, "teacher": TEACHER, "vocab_size": VOCABULARY}
    result = {
        **begun, "torch": torch.__version__, **shapes, "tokens": BATCH * LENGTH, "cases": cases,
    }  # fmt: skip
    save(args.output, result)


if __name__ == "__main__":
    main()
