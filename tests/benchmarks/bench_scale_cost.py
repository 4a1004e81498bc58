"""What a step costs: seconds and memory against tokens, vocabulary, the teacher's size, and processes.

    python tests/benchmarks/bench_scale_cost.py [--output FILE] [--curves tokens ...]

Real trainings by forward KL from a teacher beside the student, on a CPU, with one thread in each
process. Each curve turns one setting of BASE; with two processes (DDP) each has a core and a batch of
its own, so that a step takes twice the tokens. Memory is the resident size that a process had at most.
With `--curves`, the others' figures stay in the file.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import RESULTS, circumstances, save
from scale_runs import WARM_UP, Bench

SHAPE = {"num_hidden_layers": 4, "num_attention_heads": 4}
STUDENT = {**SHAPE, "hidden_size": 128, "intermediate_size": 512}
LENGTH, TIMED = 64, 20
BASE = {"tokens": 256, "vocabulary": 4096, "teacher": 256, "processes": 1}
CURVES: dict[str, list[int]] = {
    "tokens": [64, 256, 1024],
    "vocabulary": [1024, 4096, 16384],
    "teacher": [128, 256, 512],
    "processes": [1, 2],
}
"""Tokens of a process's step; rows of the head; the teacher's hidden size; processes."""


def measure(bench: Bench, point: dict[str, int]) -> dict[str, Any]:
    hidden = point["teacher"]
    teacher = {**SHAPE, "hidden_size": hidden, "intermediate_size": 4 * hidden}
    trainer = {
        "max_steps": TIMED + WARM_UP,
        "per_device_train_batch_size": point["tokens"] // LENGTH,
    }
    recipe = bench.recipe(point["vocabulary"], LENGTH, STUDENT, teacher, trainer)
    count = point["processes"]
    found = bench.measure(recipe, "ddp" if count > 1 else None, count)
    p20, median, p80 = np.percentile(found.step_s, [20, 50, 80])
    return {
        **point,
        "step_s": {"median": round(median, 4), "p20": round(p20, 4), "p80": round(p80, 4)},
        "tokens_per_s": round(count * point["tokens"] / median),
        "peak_mib": found.training_mib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "scale_cost_cpu.json")
    parser.add_argument("--curves", nargs="+", default=list(CURVES))
    args, begun = parser.parse_args(), circumstances()
    curves = json.loads(args.output.read_text())["curves"] if args.output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name in args.curves:
            curves[name] = [measure(bench, {**BASE, name: value}) for value in CURVES[name]]
            print(name, json.dumps(curves[name], indent=1), flush=True)  # noqa: T201
    result = {
        **begun, "torch": torch.__version__, "student": STUDENT, "length": LENGTH,
        "timed_steps": TIMED, "curves": curves,
    }  # fmt: skip
    save(args.output, result)


if __name__ == "__main__":
    main()
