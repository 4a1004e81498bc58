"""details.json: its shape is read by others."""

import json
from collections import Counter

import pytest

from llmkd.data.addition import make_rows
from llmkd.evaluation.details import Bin, Details, Sample, TaskDetails, write_details
from llmkd.evaluation.evaluate import evaluate
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.models import PretrainedModel
from llmkd.teacher_data.transformers_engine import generate, load_for_inference

TEXTS = ["1+2=3;#3", "12", "7", "5+5=10;#10", "0+0=0"]


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    sums = {"kind": "task", "num_examples": 11, "split": "test"}
    text = {"dataset_name": str(path), "max_length": 64}
    return Suite.model_validate(
        {
            "name": "both",
            "tasks": [
                {"kind": "exact_match", "name": "sums", "data": sums, "max_completion_length": 3},
                {"kind": "perplexity", "name": "text", "data": text},
            ],
        }
    )


@pytest.fixture
def folders(tiny_llama, tokenizer, tmp_path):
    found = {name: str(tmp_path / name) for name in ("first", "second")}
    for seed, folder in enumerate(found.values()):
        tiny_llama(tokenizer, seed=seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return found


def run(models, suite):
    return evaluate(
        models, suite, batch_size=100, seed=5, progress=lambda done, total: None
    ).details


def test_everything_is_put_together_by_task_example_and_model(tmp_path):
    details = Details()
    found = TaskDetails([Sample(3, "1+1=", "2", "½", 4, False)], [4, 2, 4], [Bin(0.5, 0.25, 8)])
    details.add(found, task="sums", model="a")
    details.add(TaskDetails([Sample(3, "1+1=", "2", "2", 2, True)]), task="sums", model="b")
    write_details(tmp_path / "details.json", details)
    assert json.loads((tmp_path / "details.json").read_text(encoding="utf-8")) == {
        "samples": [
            {
                "task": "sums",
                "example": 3,
                "prompt": "1+1=",
                "reference": "2",
                "answers": {
                    "a": {"text": "½", "num_tokens": 4, "is_right": False},
                    "b": {"text": "2", "num_tokens": 2, "is_right": True},
                },
            }
        ],
        "lengths": [{"task": "sums", "model": "a", "counts": [[2, 1], [4, 2]]}],
        "reliability": [
            {
                "task": "sums",
                "model": "a",
                "bins": [{"confidence": 0.5, "accuracy": 0.25, "count": 8}],
            }
        ],
        "differences": [],
        "parameters": {},
    }


def test_exact_match_gives_the_first_eight_answers_and_all_lengths(folders, suite):
    found = run(list(folders.items()), suite).as_data()
    samples = [sample for sample in found["samples"] if sample["task"] == "sums"]
    rows = make_rows(suite.tasks[0].data, 5)
    assert [(s["example"], s["prompt"], s["reference"]) for s in samples] == [
        (i, row["prompt"], row["completion"]) for i, row in enumerate(rows[:8])
    ]
    lengths = {one["model"]: one["counts"] for one in found["lengths"]}
    assert lengths.keys() == folders.keys()
    for name, folder in folders.items():
        model, tokenizer = load_for_inference(PretrainedModel(model_name_or_path=folder))
        expected = generate(
            model,
            tokenizer,
            [row["prompt"] for row in rows],
            temperature=0.0,
            max_completion_length=3,
            seed=0,
        )
        answers = [sample["answers"][name] for sample in samples]
        assert [answer["text"] for answer in answers] == [done.text for done in expected[:8]]
        assert {answer["is_right"] for answer in answers} == {False}
        counts = sorted(Counter(done.num_tokens for done in expected).items())
        assert lengths[name] == [list(pair) for pair in counts]


def test_perplexity_gives_texts_to_read_and_the_reliability_of_every_token(folders, suite):
    found = run(list(folders.items()), suite).as_data()
    samples = [sample for sample in found["samples"] if sample["task"] == "text"]
    assert [(s["example"], s["prompt"], s["reference"]) for s in samples] == [
        (0, "1+2", "=3;#3"),
        (1, "1", "2"),
        (3, "5+5=", "10;#10"),
    ]
    for sample in samples:
        assert sample["answers"].keys() == folders.keys()
        assert {answer["is_right"] for answer in sample["answers"].values()} == {None}
    scored = sum(map(len, TEXTS))
    assert [one["model"] for one in found["reliability"]] == list(folders)
    for one in found["reliability"]:
        assert sum(part["count"] for part in one["bins"]) == scored


def test_samples_do_not_depend_on_which_models_are_measured_beside(folders, suite):
    both, one = run(list(folders.items()), suite), run([("second", folders["second"])], suite)
    assert both.samples.keys() == one.samples.keys()
    for key, sample in both.samples.items():
        assert sample["prompt"] == one.samples[key]["prompt"]
        assert sample["answers"]["second"] == one.samples[key]["answers"]["second"]


def test_a_model_with_another_tokenizer_continues_the_same_texts(
    folders, suite, tiny_llama, tokenizer, tmp_path
):
    # Digits in pairs: 32 of its tokens would be another text.
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    pairs = {f"{i}{j}": 10 * i + j + 18 for i in range(10) for j in range(10)}
    content["model"]["vocab"] |= pairs
    content["pre_tokenizer"]["pattern"] = {"Regex": r"[0-9]{2}|[\s\S]"}
    other = str(tmp_path / "other")
    tokenizer.save_pretrained(other)
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(content))
    tiny_llama(tokenizer, vocab_size=118).save_pretrained(other)
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "0123456789" * 20}) + "\n")
    found = run([("first", folders["first"]), ("other", other)], suite).as_data()
    (sample,) = (sample for sample in found["samples"] if sample["task"] == "text")
    assert sample["prompt"] == ("0123456789" * 4)[:32]
    model, its_own = load_for_inference(PretrainedModel(model_name_or_path=other))
    assert len(its_own("0123").input_ids) == 3, "pairs, after the begin-of-text token"
    (expected,) = generate(
        model, its_own, [sample["prompt"]], temperature=0.0, max_completion_length=48, seed=0
    )
    assert sample["answers"]["other"]["text"] == expected.text
