"""Students from a store, beside the student with the teacher next to it: TinyStories, several seeds.

    python tests/benchmarks/bench_store_students.py --model FOLDER --data FOLDER [--seeds 0 1 2]

The shape, stories and steps of recipes/tinystories.yaml. Arms, which differ in what is known of the
teacher: its whole distribution (`in_process`); its 16 likeliest tokens and the mass of the rest
(`top_16`); 50 draws (`sampled_50`); and, as it should not be done, its 16 likeliest tokens
renormalised as if there were no others (`naive_16`). Each is measured on held-out stories.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from circumstances import RESULTS, circumstances, save
from torch import Tensor

from llmkd.evaluation.compare import compare_records
from llmkd.evaluation.evaluate import evaluate
from llmkd.losses.signals import SparseLogits, TopKLogits
from llmkd.recipe import load
from llmkd.recipe.schema import EvaluateStage, ScoreStage, TrainStage
from llmkd.teacher_data.capture import run_capture
from llmkd.teachers.captured import CapturedTeacher
from llmkd.training import teachers
from llmkd.training.train import run_train

CAPTURES = {
    "top_16": {"kind": "top_k", "top_k": 16},
    "sampled_50": {"kind": "sampled", "num_samples": 50},
}
ARMS = ["in_process", "top_16", "sampled_50", "naive_16"]


class NaiveTeacher(CapturedTeacher):
    """The mistake: what was kept, as if it were all."""

    def signals(self, batch: dict[str, Tensor], kept: Tensor) -> SparseLogits:
        top = super().signals(batch, kept)
        assert isinstance(top, TopKLogits)
        log_probs = top.log_probs.log_softmax(-1)
        return replace(
            top, log_probs=log_probs, tail_log_prob=torch.full_like(top.tail_log_prob, -torch.inf)
        )


def silent(done: int, total: int | None, **figures: float) -> None:
    """No progress."""


def stage_of(name: str, model: str, data: str) -> TrainStage:
    recipe = load(
        "tinystories",
        [
            f"stages.student.teacher.model_name_or_path={model}",
            f"stages.twin.student.tokenizer_name_or_path={model}",
            f"stages.student.data.dataset_name={data}",
        ],
    )
    stage = recipe.stages["student"]
    assert isinstance(stage, TrainStage)
    if name == "in_process":
        return stage
    store = {"kind": "store", "path": "naive" if name == "naive_16" else name}
    return TrainStage.model_validate({**stage.model_dump(), "teacher": store})


def suite_of(model: str, data: str) -> Any:
    recipe = load(
        "tinystories",
        [
            f"stages.evaluation.models.0={model}",
            f"stages.evaluation.suite.tasks.0.data.dataset_name={data}",
        ],
    )
    stage = recipe.stages["evaluation"]
    assert isinstance(stage, EvaluateStage)
    return stage.suite


def capture(model: str, data: str, folder: Path) -> dict[str, float]:
    student = stage_of("in_process", model, data)
    seconds = {}
    for name, kept in CAPTURES.items():
        stage = ScoreStage.model_validate(
            {
                "kind": "score",
                "teacher": {"model_name_or_path": model},
                "data": student.data.model_dump(),
                "engine": {"kind": "transformers", "batch_size": 32},
                "capture": kept,
            }
        )
        started = time.monotonic()
        run_capture(stage, folder / name, seed=0, progress=silent)
        seconds[name] = round(time.monotonic() - started, 1)
    return seconds


def train(arm: str, model: str, data: str, stores: Path, folder: Path, seed: int) -> str:
    stage = stage_of(arm, model, data)
    if arm != "in_process":
        store = stores / ("top_16" if arm == "naive_16" else arm)
        stage = stage.model_copy(
            update={"teacher": stage.teacher.model_copy(update={"path": str(store)})}
        )
    teachers.CapturedTeacher = NaiveTeacher if arm == "naive_16" else CapturedTeacher
    run_train(stage, folder, name=arm, seed=seed)
    return str(folder / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    default = RESULTS / "store_students_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    args = parser.parse_args()
    records, begun = {}, circumstances()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = capture(args.model, args.data, folder)
        for seed in args.seeds:
            models = [
                (arm, train(arm, args.model, args.data, folder, folder / f"{arm}-{seed}", seed))
                for arm in ARMS
            ]
            found = evaluate(
                models, suite_of(args.model, args.data), batch_size=16, seed=seed, progress=silent
            )
            records[Path(f"seed-{seed}")] = found.records
            print(seed, [(r.model, r.value) for r in found.records], flush=True)  # noqa: T201
    rows = [vars(row) for row in compare_records(records, "in_process")]
    result = {
        **begun,
        "command": " ".join([Path(sys.argv[0]).name, "--model MODEL --data DATA"]),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "capture_seconds": seconds,
        "rows": rows,
    }
    save(args.output, result)


if __name__ == "__main__":
    main()
