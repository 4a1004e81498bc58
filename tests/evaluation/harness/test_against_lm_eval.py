"""The same tasks on the same rows by lm-eval's own command line, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lm_eval
import pytest
import yaml

from llmkd.evaluation.harness import measure as measure_module
from llmkd.evaluation.harness.measure import measure_harness
from llmkd.evaluation.measured import Setting
from llmkd.evaluation.subject import subject_at
from llmkd.models.load import load_model
from llmkd.recipe.harness import LMEvalTask

pytestmark = pytest.mark.real_data

SHIPPED = Path(lm_eval.__file__).parent / "tasks"
SEED, BATCH_SIZE = 7, 8
# No metric that lm-eval resamples 100,000 times, such as mcc, which takes it minutes.
CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{labels.index(answerKey)}}",
    "doc_to_choice": "{{choices}}",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        {"metric": "brier_score", "aggregation": "brier_score", "higher_is_better": False},
    ],
}
STORIES = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [
        {"metric": "word_perplexity"},
        {"metric": "byte_perplexity"},
        {"metric": "bits_per_byte"},
    ],
}
# One of choices only: lm-eval puts those of several tasks into one batch, which changes last digits.
# What each is, its file beside the repository, how many rows, and what the suite says.
TASKS = {
    "choices": (CHOICES, "commonsense_qa/train.jsonl", 30, {"num_fewshot": 1}),
    "stories": (STORIES, "tinystories/validation.jsonl", 20, {}),
    "sums": (
        {
            "include": str(SHIPPED / "gsm8k/gsm8k.yaml"),
            "generation_kwargs": {"until": ["Question:"], "do_sample": False, "max_gen_toks": 24},
            "num_fewshot": 2,
        },
        "gsm8k/train.jsonl",
        20,
        {},
    ),
    "drawn": (
        {
            "include": str(SHIPPED / "gsm8k/gsm8k.yaml"),
            "generation_kwargs": {"do_sample": True, "temperature": 0.8, "max_gen_toks": 16},
            "num_fewshot": 0,
        },
        "gsm8k/train.jsonl",
        10,
        {},
    ),
}


@pytest.fixture(scope="module")
def rows(real_data, tmp_path_factory):
    """The first rows of each file, by task."""
    folder = tmp_path_factory.mktemp("rows")
    files = {}
    for name, (_, file, num_rows, _) in TASKS.items():
        lines = (real_data / file).read_text(encoding="utf-8").splitlines()[:num_rows]
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


@pytest.fixture(scope="module")
def by_lm_eval(real_data, rows, tmp_path_factory):
    """What lm-eval writes: results, and samples by task."""
    folder = tmp_path_factory.mktemp("lm_eval")
    for name, (definition, _, _, settings) in TASKS.items():
        content = {
            **definition,
            **settings,
            "task": name,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"test": str(rows[name])}},
            "training_split": None,
            "validation_split": None,
            "test_split": "test",
            "fewshot_split": "test",
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    options = {
        "--model": "hf",
        "--model_args": f"pretrained={real_data / 'models/stories260K/hf'}",
        "--tasks": ",".join(TASKS),
        "--include_path": folder,
        "--batch_size": BATCH_SIZE,
        "--seed": SEED,
        "--device": "cpu",
        "--output_path": folder / "out",
    }
    command = [sys.executable, "-m", "lm_eval", "run", "--log_samples"]
    subprocess.run(
        [*command, *(str(part) for pair in options.items() for part in pair)],
        check=True,
        capture_output=True,
        # As this process computes, whose sums are then of the same order.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    (results,) = (folder / "out").glob("*/results_*.json")
    samples = {}
    for name in TASKS:
        (path,) = (folder / "out").glob(f"*/samples_{name}_*.jsonl")
        samples[name] = [json.loads(line) for line in path.read_text().splitlines()]
    return json.loads(results.read_text())["results"], samples


@pytest.mark.parametrize("name", TASKS)
def test_numbers_are_those_of_lm_evals_command_line_to_the_last_digit(
    name, real_data, rows, by_lm_eval, monkeypatch
):
    definition, _, num_rows, settings = TASKS[name]
    content = {
        "kind": "lm_eval",
        "name": name,
        "data": {"dataset_name": str(rows[name])},
        **settings,
    }
    path = rows[name].with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**definition, "task": name, "test_split": "test"}))
    task = LMEvalTask.model_validate({**content, "definition": str(path)})
    subject = subject_at("stories", str(real_data / "models/stories260K/hf"), load_model)
    logged = spied(monkeypatch)
    measured = measure_harness(
        subject, task, Setting(subject, BATCH_SIZE, SEED, lambda done, total: None)
    )
    results, samples = by_lm_eval
    theirs = {
        key.removesuffix(",none").replace(",", ":"): value
        for key, value in results[name].items()
        if "," in key and "_stderr" not in key
    }
    assert {one.metric: one.found.value for one in measured.estimates} == theirs
    assert theirs
    assert {one.num_examples for one in measured.estimates} == {num_rows}
    # Log-likelihoods and texts too, of every request.
    assert answers(logged["samples"][name]) == answers(samples[name])


def spied(monkeypatch):
    """What lm-eval returns to llmkd."""
    found = {}
    ask = measure_module.evaluate
    monkeypatch.setattr(
        measure_module, "evaluate", lambda *a, **k: found.update(result := ask(*a, **k)) or result
    )
    return found


def answers(samples):
    """What was asked and what came, in the words of the file, which has every number as text."""
    prompts = [sample["arguments"] for sample in samples]
    if isinstance(prompts[0], dict):
        prompts = [[list(one.values()) for one in prompt.values()] for prompt in prompts]
    return json.loads(json.dumps(prompts)), [
        as_text(sample["filtered_resps"]) for sample in samples
    ]


def as_text(value):
    return [as_text(one) for one in value] if isinstance(value, list | tuple) else str(value)
