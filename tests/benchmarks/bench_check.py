"""How long `llmkd check` takes in a fresh process, per shipped recipe.

python tests/benchmarks/bench_check.py [--output FILE] [--repeats N]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from llmkd.recipe.shipped import shipped_recipes

ROOT = Path(__file__).parents[2]


def seconds(recipe: Path) -> float:
    command = [sys.executable, "-m", "llmkd", "check", str(recipe)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def measure(recipe: Path, repeats: int) -> dict[str, float]:
    seconds(recipe)
    times = sorted(seconds(recipe) for _ in range(repeats))
    return {
        "median_s": round(statistics.median(times), 3),
        "p20_s": round(times[repeats // 5], 3),
        "p80_s": round(times[repeats * 4 // 5], 3),
    }


def commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "results" / "check_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    result = {
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"cores": os.cpu_count()},
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "repeats": args.repeats,
        "recipes": {path.stem: measure(path, args.repeats) for path in shipped_recipes()},
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
