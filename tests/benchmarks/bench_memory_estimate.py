"""The memory that `llmkd check` expects, beside what a training takes: peak resident size on a CPU.

python tests/benchmarks/bench_memory_estimate.py [--output FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from circumstances import RESULTS, circumstances, save

RECIPE = {
    "name": "memory",
    "kind": "train",
    "student": {
        "kind": "scratch",
        "config": {
            "model_type": "llama",
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
        },
    },
    "data": {"kind": "task", "digits": 9, "num_examples": 2000},
    "losses": [{"kind": "cross_entropy"}],
    "trainer": {"max_steps": 3, "per_device_train_batch_size": 64, "logging_steps": 1},
}
BATCH, BF16 = "trainer.per_device_train_batch_size", "trainer.bf16=true"
CASES = {
    "float32": [],
    "bf16": [BF16],
    "batch 128": [f"{BATCH}=128"],
    "bf16, gradient_checkpointing, batch 256": [
        BF16,
        "trainer.gradient_checkpointing=true",
        f"{BATCH}=256",
    ],
    "float32, gradient_checkpointing, batch 256": [
        "trainer.gradient_checkpointing=true",
        f"{BATCH}=256",
    ],
    "hidden size 512": [
        "student.config.hidden_size=512",
        "student.config.intermediate_size=2048",
        f"{BATCH}=16",
    ],
}


def llmkd(*arguments: str) -> str:
    command = [sys.executable, "-m", "llmkd", *arguments, "--quiet"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure(folder: Path, name: str, overrides: list[str]) -> dict[str, float | str]:
    recipe = folder / "memory.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    facts = json.loads(llmkd("check", str(recipe), *overrides, "--json"))["stages"]["train"]
    expected = facts["facts"]["memory"]["value"] / 2**20
    run = folder / name.replace(" ", "_")
    llmkd("train", str(recipe), f"output_dir={run}", *overrides)
    lines = (run / "stages" / "train" / "metrics.jsonl").read_text().splitlines()
    measured = json.loads(lines[-1])["peak_memory_gib"] * 2**10
    return {
        "overrides": " ".join(overrides),
        "measured_mib": round(measured),
        "estimated_mib": round(expected),
        "ratio": round(expected / measured, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = RESULTS / "memory_estimate_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    output, begun = parser.parse_args().output, circumstances()
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: measure(Path(folder), name, CASES[name]) for name in CASES}
    result = {
        **begun,
        "torch": torch.__version__,
        "cases": cases,
    }
    save(output, result)
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
