"""Shipped suites on the real rows beside the repository."""

import json

import pytest
import torch

from llmkd.evaluation.harness.measure import measure_harness
from llmkd.evaluation.measured import Setting
from llmkd.evaluation.subject import subject_at
from llmkd.evaluation.suites import find_suite, with_data, with_limit, with_tasks
from llmkd.models.load import load_model

pytestmark = pytest.mark.real_data

NUM_ROWS = 20
FLAT = [f"span{i}_{what}" for i in (1, 2) for what in ("text", "index")]


def wnli(row):
    return (
        f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:",
        [" False", " True"],
        int(row["label"]),
    )


def copa(row):
    connector = {"cause": "because", "effect": "therefore"}[row["question"]]
    # Two spaces: one of the task's, one that lm-eval puts before every answer.
    choices = ["  " + row[name][0].lower() + row[name][1:] for name in ("choice1", "choice2")]
    return row["premise"][:-1] + f" {connector}", choices, row["label"]


@pytest.mark.parametrize(
    ("suite", "task", "file", "asked"),
    [
        ("glue", "wnli", "glue_wnli/validation.jsonl", wnli),
        ("superglue", "copa", "superglue_copa/train32.jsonl", copa),
    ],
)
def test_accuracy_is_how_often_the_right_answer_is_the_likeliest(
    suite, task, file, asked, real_data
):
    subject = subject_at("stories", str(real_data / "models/stories260K/hf"), load_model)
    measured = measured_on(real_data / file, suite, task, subject)
    rows = [json.loads(line) for line in (real_data / file).read_text().splitlines()][:NUM_ROWS]
    right = 0
    for row in rows:
        prompt, choices, label = asked(row)
        scores = [log_likelihood(subject, prompt, choice) for choice in choices]
        right += scores.index(max(scores)) == label
    assert 0 < right < NUM_ROWS
    assert measured == {"acc": right / NUM_ROWS}


def test_nested_columns_of_wsc_are_read(real_data):
    subject = subject_at("stories", str(real_data / "models/stories260K/hf"), load_model)
    columns = [f"wsc.{name}=target.{name}" for name in FLAT]
    file = real_data / "superglue_wsc/train32.jsonl"
    assert measured_on(file, "superglue", "wsc", subject, columns).keys() == {"acc"}


def measured_on(file, suite, task, subject, columns=()):
    chosen = with_data(with_tasks(find_suite(suite), [task]), [f"{task}={file}"], columns)
    (only,) = with_limit(chosen, NUM_ROWS).tasks
    found = measure_harness(subject, only, Setting(subject, 8, 0, lambda done, total: None))
    return {one.metric: one.found.value for one in found.estimates}


@torch.inference_mode()
def log_likelihood(subject, prompt, choice):
    ids = subject.tokenizer(prompt + choice, return_tensors="pt").input_ids
    begin = len(subject.tokenizer(prompt).input_ids)
    logprobs = subject.model(ids).logits[0, begin - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(1, ids[0, begin:, None]).sum())
