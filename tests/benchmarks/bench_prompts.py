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
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from circumstances import RESULTS, circumstances, save

from llmkd.data.addition import build_tokenizer
from llmkd.recipe.schema import GenerateStage
from llmkd.teacher_data import capture
from llmkd.teacher_data.engine import Written

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = RESULTS / "prompts_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--prompts", type=int, nargs="+", default=[10_000, 200_000])
    parser.add_argument("--run", type=Path, help="internal")
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(args.run)))  # noqa: T201
        return
    begun = circumstances()
    with tempfile.TemporaryDirectory() as folder:
        found = {str(n): fresh(Path(folder) / str(n), n) for n in args.prompts}
    result = {
        **begun,
        "tokens_of_a_prompt": DIGITS,
        "characters_kept": KEPT,
        "prompts": found,
    }
    save(args.output, result)
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
