"""The memory that `llmkd check --launch` expects of each process, beside what each of two took.

    python tests/benchmarks/bench_scale_memory.py [--output FILE] [--engines alone ddp ...]

Real trainings on a CPU: the resident size that a process had at most until training ended, with all that
Python, torch and the engine take, where the C library gives freed memory back. A Llama of 42 million
parameters, with a smaller teacher whole in each process; `teachers` is DDP with a teacher of as many, in
the places that a recipe can name. What libraries take is measured by the same training of next to no
weights; `beyond` is the ratio without it on either side. `with_saving_mib` is of each process until its
end. With `--engines`, the others' figures stay in the file.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from circumstances import RESULTS, circumstances, save
from scale_runs import GIVES_BACK, Bench

from llmkd.check import check
from llmkd.launch_files import ENGINES

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
ALONE, OF_TEACHERS = "alone", "teachers"
PLACES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "sharded": {"sharded": True},
    "8bit": {"quantization": "8bit"},
    "4bit": {"quantization": "4bit"},
}


def compare(
    bench: Bench, engine: str | None, student: dict[str, Any], teacher: dict[str, Any],
    extra: dict[str, Any], **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    trainer = {"max_steps": STEPS, "per_device_train_batch_size": BATCH, **extra}
    recipe = bench.recipe(VOCABULARY, LENGTH, student, teacher, trainer, **settings)
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


def beyond(case: dict[str, Any], tiny: dict[str, Any]) -> dict[str, Any]:
    expected = case["estimated_mib"] - tiny["estimated_mib"]
    return {**case, "beyond": round(expected / (case["measured_mib"] - tiny["measured_mib"]), 2)}


def of_engine(bench: Bench, name: str) -> dict[str, Any]:
    engine = None if name == ALONE else name
    tiny = compare(bench, engine, TINY, TINY, {})
    found: dict[str, Any] = {"tiny": tiny}
    for precision, extra in PRECISIONS.items():
        found[precision] = beyond(compare(bench, engine, STUDENT, TEACHER, extra), tiny)
        print(name, precision, json.dumps(found[precision]), flush=True)  # noqa: T201
    return found


def of_teachers(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = {"tiny": compare(bench, "ddp", TINY, TINY, {})}
    for name, settings in PLACES.items():
        case = compare(bench, "ddp", STUDENT, STUDENT, {}, **settings)
        found[name] = beyond(case, found["tiny"])
        print(name, json.dumps(found[name]), flush=True)  # noqa: T201
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "scale_memory_cpu.json")
    parser.add_argument("--engines", nargs="+", default=[ALONE, *ENGINES, OF_TEACHERS])
    args, begun = parser.parse_args(), circumstances()
    cases = json.loads(args.output.read_text())["cases"] if args.output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name in args.engines:
            case = of_teachers(bench) if name == OF_TEACHERS else of_engine(bench, name)
            cases[name] = {"commit": begun["commit"], **case}
    shapes = {"student": STUDENT, "teacher": TEACHER, "vocab_size": VOCABULARY}
    result = {
        **begun, "torch": torch.__version__, **shapes, "tokens": BATCH * LENGTH, "cases": cases,
    }  # fmt: skip
    save(args.output, result)


if __name__ == "__main__":
    main()
