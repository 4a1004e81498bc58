"""What a curate stage takes: peak memory by the number of rows, and seconds by step.

Each measurement is a process of its own on rows of 60 words, four to a prompt. The steps that hold no
index are measured together.

python tests/benchmarks/bench_curation.py [--output FILE] [--rows N N]
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
ANSWER = {"grader": "number"}
STEPS = {
    "none": [],
    "without an index": [
        {"kind": "length", "max_length": 500},
        {"kind": "repetition"},
        {"kind": "verify", "keep": "all", **ANSWER},
        {"kind": "select", "pass_rate": [0.0, 1.0]},
        {"kind": "vote", "ties": "first", **ANSWER},
        {"kind": "extract", "column": "found", **ANSWER},
        {"kind": "select", "fraction": 0.9},
    ],
    "exact duplicates": [{"kind": "duplicates"}],
    "near duplicates": [{"kind": "duplicates", "match": "near"}],
}


def write_rows(path: Path, num_rows: int) -> None:
    """Rows of random words, none of which is another's near duplicate."""
    draw = random.Random(0)
    words = [f"w{i}" for i in range(20_000)]
    with path.open("w") as file:
        for i in range(num_rows):
            text = " ".join(draw.choices(words, k=60))
            row = {"prompt": f"question {i // 4}", "completion": f"{text}. #### {i % 7}"}
            file.write(json.dumps({**row, "answer": "3", "number": i // 4}) + "\n")


def curate(rows: str, steps: str, folder: str) -> None:
    """In a process of its own: one stage; prints seconds and peak memory."""
    from llmkd.curation.run import run_curation
    from llmkd.recipe.curation import CurateStage

    content = json.dumps({"kind": "curate", "data": rows, "steps": STEPS[steps]})
    stage = CurateStage.model_validate_json(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = run_curation(stage, Path(folder), seed=0, progress=lambda done, total: None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "rows_out": made.num_out,
        "seconds": made.seconds,
        "peak_mib": round(peak / 1024, 1),
        "peak_before_mib": round(before / 1024, 1),
    }
    print(json.dumps(found))  # noqa: T201


def measure(rows: Path, steps: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--curate", str(rows), steps, folder]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "results" / "curation_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--rows", type=int, nargs=2, default=[10_000, 200_000])
    parser.add_argument("--curate", nargs=3)
    args = parser.parse_args()
    if args.curate:
        curate(*args.curate)
        return
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in STEPS}
    with tempfile.TemporaryDirectory() as folder:
        for num_rows in args.rows:
            path = Path(folder) / f"{num_rows}.jsonl"
            write_rows(path, num_rows)
            for name in STEPS:
                found[name][str(num_rows)] = measure(path, name)
    result = {
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"cores": os.cpu_count()},
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "words_per_row": 60,
        "steps": found,
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
