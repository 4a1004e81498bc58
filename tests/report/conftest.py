"""A run folder as `llmkd train` leaves it, written by hand: no model is trained for it."""

import copy
import json

import pytest
import yaml

from llmkd.evaluation.results import Record, write_results
from llmkd.recipe.schema import Recipe
from llmkd.run_folder import StageState, write_stage

SHAPE = {"kind": "scratch", "config": {"model_type": "llama"}}
TASK = {"kind": "task", "digits": 3, "num_examples": 9}
STAGES = {
    "teacher": {"kind": "train", "student": SHAPE, "data": TASK, "losses": [{"kind": "cross_entropy"}]},
    "texts": {"kind": "generate", "teacher": {"model_name_or_path": "stage:teacher"}, "data": TASK},
    "twin": {"kind": "train", "student": SHAPE, "data": TASK, "losses": [{"kind": "cross_entropy"}]},
    "student": {
        "kind": "train",
        "student": SHAPE,
        "teacher": {"model_name_or_path": "stage:teacher"},
        "data": {"dataset_name": "stage:texts", "max_length": 64},
        "losses": [{"kind": "forward_kl"}, {"kind": "cross_entropy", "weight": 0.5}],
    },
    "evaluation": {
        "kind": "evaluate",
        "models": ["stage:teacher", "stage:twin", "stage:student"],
        "suite": "procedural",
    },
}  # fmt: skip


def _recipe(stages=STAGES, **fields):
    content = {"name": "tiny", "description": "A tiny one", "stages": stages, **fields}
    return Recipe.model_validate_json(json.dumps(content))


def _record(model, value, low, high, *, metric="exact_match", task="sums", seed=0):
    return Record(model, "suite", task, metric, value, low, high, 500, seed)


def _metric_lines(num_lines=20, **columns):
    return [
        {"step": 10 * (i + 1), **{name: f(i / (num_lines - 1)) for name, f in columns.items()}}
        for i in range(num_lines)
    ]


@pytest.fixture
def stages():
    """The recipe's stages, to be changed."""
    return copy.deepcopy(STAGES)


@pytest.fixture
def make_recipe():
    """A recipe of given stages."""
    return _recipe


@pytest.fixture
def record():
    """One measurement."""
    return _record


@pytest.fixture
def metric_lines():
    """Log lines; every column is a function of how far the training is, from 0 to 1."""
    return _metric_lines


@pytest.fixture
def write_metrics():
    """Writes a stage's metrics.jsonl."""
    return _write_metrics


@pytest.fixture
def make_run(tmp_path):
    """Makes a finished run; what is given is written in place of what is usual."""

    def make(name="run", *, seed=0, stages=STAGES, values=(1.0, 0.4, 0.9), records=None):
        folder = tmp_path / name
        folder.mkdir()
        recipe = _recipe(stages, seed=seed, output_dir=str(folder))
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        (folder / "recipe.resolved.yaml").write_text(text)
        environment = {"python": "3.11", "packages": {"torch": "2.13"}, "command": "llmkd train it"}
        (folder / "environment.json").write_text(json.dumps(environment))
        for stage in stages:
            state = StageState("f", {}, True, 12.5, "2026-01-02T03:04:05+00:00")
            write_stage(folder / "stages" / stage, state)
        lines = _metric_lines(
            loss=lambda x: 3 - 2 * x, kl=lambda x: 2 - 1.5 * x, teacher_nll=lambda x: 0.5,
            grad_norm=lambda x: 1.0,
            **{"loss/forward_kl": lambda x: 2 - 1.5 * x, "loss/cross_entropy": lambda x: 3 - 2 * x},
        )  # fmt: skip
        _write_metrics(folder, "student", lines)
        (folder / "stages/student/data.json").write_text(
            '{"num_rows": 100, "num_tokens": 4000, "longest": 64, "num_truncated": 1, '
            '"num_dropped": 0, "lengths": [[32, 60], [64, 38], [128, 2]]}'
        )
        if records is None:
            models = ("teacher", "twin", "student")
            records = [
                _record(model, value, value - 0.02, value + 0.02, seed=seed)
                for model, value in zip(models, values, strict=True)
            ]
        if records:
            for path in (folder, folder / "stages/evaluation"):
                write_results(path / "results.json", records)
        return folder

    return make


def _write_metrics(folder, stage, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "stages" / stage / "metrics.jsonl").write_text(text)
