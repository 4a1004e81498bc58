"""Memory of a generate stage, by how many prompts it has.

    python tests/benchmarks/bench_prompts.py [--output FILE] [--prompts 10000 200000]

Prompts of 200 tokens each, with an answer of 100 characters that goes along (`keep_columns`), and an engine
that answers each by one token, so that what is measured is what llmkd keeps. Each number of prompts runs in a fresh process, whose own memory (RssAnon) is looked at after
every shard and at the end; of the peak, what was there before the stage is taken off. The index of the
finished store is made in memory: some 100 bytes a row, which are in `at_end`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llmkd.data.addition import build_tokenizer
from llmkd.recipe.schema import GenerateStage
from llmkd.teacher_data import capture
from llmkd.teacher_data.engine import Written

ROOT = Path(__file__).parents[2]
DIGITS = 200
"""Of each prompt; a token each."""
KEPT = 100
"""Characters of the column that goes along with each prompt."""


class Echo:
    """Answers by the prompt's last token, and looks at the memory."""

    def __init__(self) -> None:
        self.seen = [own_memory_mib()]

    def generate(self, prompts: list[list[int]], seeds: list[int]) -> list[Written]:
        self.seen.append(own_memory_mib())
        return [Written(ids[-1:], "x", "stop") for ids in prompts]

    def score(self, *_: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """Has nothing to let go of."""


def own_memory_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def write_prompts(path: Path, num_prompts: int) -> None:
    draw = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(num_prompts):
            text = "".join(map(str, draw.integers(10, size=DIGITS).tolist()))
            file.write(json.dumps({"prompt": text, "answer": text[:KEPT]}) + "\n")


def run(folder: Path) -> dict[str, float]:
    """In a process of its own; the folder has the prompts and the teacher."""
    stage = GenerateStage.model_validate(
        {
            "kind": "generate",
            "teacher": {"model_name_or_path": str(folder / "teacher")},
            "data": {"dataset_name": str(folder / "prompts.jsonl"), "keep_columns": ["answer"]},
            "shard_size": 1000,
        }
    )
    engine = Echo()
    capture.build_engine = lambda stage: engine
    before, started = own_memory_mib(), time.perf_counter()
    capture.run_capture(stage, folder / "out", seed=0, progress=lambda done, total, **x: None)
    return {
        "peak_while_asking_mib": round(max(engine.seen) - before, 1),
        "at_end_mib": round(own_memory_mib() - before, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def fresh(folder: Path, num_prompts: int) -> dict[str, float]:
    folder.mkdir()
    write_prompts(folder / "prompts.jsonl", num_prompts)
    build_tokenizer().save_pretrained(folder / "teacher")
    (folder / "teacher" / "config.json").write_text('{"model_type": "llama"}')
    environment = os.environ | {"LLMKD_CACHE": str(folder / "cache"), "LLMKD_QUIET": "1"}
    command = [sys.executable, __file__, "--run", str(folder)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parent / "results" / "prompts_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--prompts", type=int, nargs="+", default=[10_000, 200_000])
    parser.add_argument("--run", type=Path, help="internal")
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(args.run)))  # noqa: T201
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {str(n): fresh(Path(folder) / str(n), n) for n in args.prompts}
    result = {
        "commit": commit(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine()},
        "tokens_of_a_prompt": DIGITS,
        "characters_kept": KEPT,
        "prompts": found,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
