"""Trainings by one or two processes, each of which writes down its peak memory and its steps' times.

Also the module that accelerate's launcher runs in every process: `scale_runs RECIPE FIGURES`.
"""

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmkd.launch import launch_of
from llmkd.processes import die_with

WARM_UP = 2
"""Steps that are not timed: ZeRO-3 notes in the first what the later ones go by."""
# Left to itself, glibc keeps much of what is freed, such as the whole student after it was taken apart.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Measured:
    """Of one training.

    Args:
        training_mib: The resident memory that the first process had at most when training ended.
        peak_mib: What each process had at most in all, saving included.
        step_s: Seconds of each step after the first ones.
    """

    training_mib: int
    peak_mib: list[int]
    step_s: list[float]


class Bench:
    """Rows of random words, teachers, and recipes, in a folder of their own."""

    def __init__(self, root: Path):
        self.root = root
        self.number = 0

    def rows(self, vocab_size: int, length: int, number: int = 512) -> Path:
        path = self.root / f"rows-{vocab_size}-{length}.jsonl"
        draw = np.random.default_rng(0).integers(1, vocab_size, (number, length - 1))
        texts = (" ".join(f"w{token}" for token in row) for row in draw)
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return path

    def model(self, vocab_size: int, shape: dict[str, Any]) -> Path:
        folder = self.root / f"model-{vocab_size}-{shape['hidden_size']}"
        if not folder.exists():
            tokenizer_of(vocab_size).save_pretrained(folder)
            config = LlamaConfig(**shape, vocab_size=vocab_size, eos_token_id=0)
            LlamaForCausalLM(config).save_pretrained(folder)
        return folder

    def recipe(
        self, vocab_size: int, length: int, student: dict[str, Any], teacher: dict[str, Any] | None,
        trainer: dict[str, Any], **of_teacher: Any,
    ) -> Path:  # fmt: skip
        self.number += 1
        own = self.model(vocab_size, student)
        stage: dict[str, Any] = {
            "name": f"scale-{self.number}",
            "output_dir": str(self.root / f"run-{self.number}"),
            "kind": "train",
            "student": {"model_name_or_path": str(own)},
            "data": {"dataset_name": str(self.rows(vocab_size, length)), "max_length": length},
            "losses": [{"kind": "cross_entropy" if teacher is None else "forward_kl"}],
            "trainer": {"logging_steps": 1, "save_strategy": "no", **trainer},
        }
        if teacher is not None:
            path = str(self.model(vocab_size, teacher))
            stage["teacher"] = {"model_name_or_path": path, **of_teacher}
        path = self.root / f"{stage['name']}.yaml"
        path.write_text(yaml.safe_dump(stage, sort_keys=False))
        return path

    def measure(
        self, recipe: Path, engine: str | None, num_processes: int, **environment: str
    ) -> Measured:
        """Trains it, with one thread in each process."""
        figures = recipe.with_suffix("")
        launch = launch_of(engine, num_processes=num_processes if engine else None)
        words = [str(recipe), str(figures)]
        own = [sys.executable, "-m", "scale_runs", *words]
        subprocess.run(
            launch.command("scale_runs", *words) if launch else own,
            env=os.environ | environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])},
            check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        peaks = [
            json.loads(Path(f"{figures}-{rank}.json").read_text()) for rank in range(num_processes)
        ]
        log = self.root / f"run-{recipe.stem.split('-')[1]}" / "stages" / "train" / "metrics.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        training = max(line["peak_memory_gib"] for line in lines if "peak_memory_gib" in line)
        return Measured(round(training * 2**10), peaks, step_times(lines))


def tokenizer_of(vocab_size: int) -> PreTrainedTokenizerFast:
    words = {"<eos>": 0} | {f"w{i}": i for i in range(1, vocab_size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def step_times(lines: list[dict[str, Any]]) -> list[float]:
    """Seconds of each step after the first ones, from the tokens of each and their speed."""
    steps = [line for line in lines if "tokens_per_s" in line]
    times = [(new["tokens"] - old["tokens"]) / new["tokens_per_s"] for old, new in pairwise(steps)]
    return [round(seconds, 4) for seconds in times[WARM_UP - 1 :]]


def main(recipe: str, figures: str) -> None:
    # A benchmark that is killed leaves no training behind.
    die_with(os.getppid())
    from llmkd import run
    from llmkd.recipe import load

    run(load(recipe))
    # A single process leaves the training to a child.
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(who).ru_maxrss for who in whose) // 2**10
    Path(f"{figures}-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(peak))


if __name__ == "__main__":
    main(*sys.argv[1:])
