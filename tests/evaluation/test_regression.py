"""Real, tiny models that give a number, on rows whose labels are numbers."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from llmkd.data.classification import labelled_rows
from llmkd.errors import InputError
from llmkd.evaluation.differences import verdict_of
from llmkd.evaluation.evaluate import evaluate
from llmkd.evaluation.suites import find_suite, with_data
from llmkd.models.classifiers import head_config
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.load import checked_part

ROWS = [
    ("wet wet", "wet", 5.0), ("wet", "warm cold", 0.5), ("warm", "warm loud", 3.8),
    ("loud", "cold", 0), ("cold wet", "warm", 1.2), ("warm", "warm", 5.0),
]  # fmt: skip


@pytest.fixture
def number_model(weather_model, tmp_path):
    """Saves the weather model's encoder with a random head for one number."""

    def save(name, seed=0, **fields):
        torch.manual_seed(seed)
        config = AutoConfig.from_pretrained(weather_model, **head_config(["LABEL_0"]), **fields)
        model = AutoModelForSequenceClassification.from_pretrained(
            weather_model, config=config, ignore_mismatched_sizes=True
        )
        model.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(weather_model).save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def task_of(tmp_path):
    def make(rows=ROWS, metrics=("pearson", "spearman", "mse"), **fields):
        lines = [json.dumps({"text": a, "text_pair": b, "label": y}) for a, b, y in rows]
        (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
        data = {
            "kind": "classification",
            "problem_type": "regression",
            "dataset_name": str(tmp_path / "rows.jsonl"),
            **fields,
        }
        task = {"kind": "classification", "name": "alike", "data": data, "metrics": list(metrics)}
        return Suite.model_validate({"name": "s", "tasks": [task]})

    return make


def measured(suite, *models, **settings):
    named = [(path.name, str(path)) for path in models]
    return evaluate(named, suite, batch_size=4, seed=0, progress=lambda *_: None, **settings)


def test_a_saved_model_is_measured_by_its_own_numbers(number_model, task_of, tmp_path):
    models = number_model("a"), number_model("b", seed=1)
    found = measured(task_of(), *models, folder=tmp_path / "kept")
    assert not found.failures
    labels = [label for *_, label in ROWS]
    for path in models:
        model = AutoModelForSequenceClassification.from_pretrained(path).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
        with torch.no_grad():
            own = [model(**tokenizer(a, b, return_tensors="pt")).logits.item() for a, b, _ in ROWS]
        expected = {
            "pearson": stats.pearsonr(own, labels).statistic,
            "spearman": stats.spearmanr(own, labels).statistic,
            "mse": np.mean(np.subtract(own, labels) ** 2),
        }
        records = {r.metric: r for r in found.records if r.model == path.name}
        assert {name: r.value for name, r in records.items()} == pytest.approx(expected, rel=1e-4)
        assert all(r.ci_low < r.value < r.ci_high for r in records.values())
        assert {r.num_examples for r in records.values()} == {len(ROWS)}
    details = found.details.as_data()
    first = details["samples"][2]
    assert (first["prompt"], first["reference"]) == ("warm | warm loud", "3.8")
    assert first["answers"]["b"]["is_right"] is None
    assert float(first["answers"]["b"]["text"]) == pytest.approx(own[2], rel=1e-2)
    paired = {one["metric"]: one["value"] for one in details["differences"]}
    values = {(r.model, r.metric): r.value for r in found.records}
    assert paired["mse"] == pytest.approx(values["b", "mse"] - values["a", "mse"])
    # What was answered is kept.
    assert measured(task_of(), *models, folder=tmp_path / "kept").records == found.records


def test_less_error_and_more_correlation_are_better():
    assert [verdict_of(name, 0.1, 0.2) for name in ("mse", "pearson", "spearman")] == [
        "worse",
        "better",
        "better",
    ]


def test_a_model_of_one_answer_has_no_correlation_and_is_told(number_model, task_of):
    path = number_model("flat")
    model = AutoModelForSequenceClassification.from_pretrained(path)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.constant_(model.classifier.bias, 2.5)
    model.save_pretrained(path)
    (failure,) = measured(task_of(), path).failures
    assert failure.message == (
        "tasks.alike: the model gives all 6 rows the number 2.5, so that its correlation with their "
        "labels is undefined; train it further, or write metrics: [mse]"
    )
    assert not failure.is_bad_input
    (record,) = measured(task_of(metrics=["mse"]), path).records
    assert record.value == pytest.approx(np.mean([(2.5 - label) ** 2 for *_, label in ROWS]))


def test_labels_that_are_all_equal_or_no_rows_are_refused(number_model, task_of):
    path = number_model("m")
    equal = [(a, b, 1.5) for a, b, _ in ROWS]
    with pytest.raises(InputError, match=r"the labels of all 6 rows are 1.5, .* is undefined"):
        measured(task_of(equal), path)
    with pytest.raises(InputError, match="the data set is empty"):
        measured(task_of([]), path)
    with pytest.raises(InputError, match="`text` is empty or no text in 1 of 1 rows"):
        measured(task_of([("", "wet", 1.0)]), path)


def test_a_model_of_the_other_kind_is_refused(number_model, weather_model, task_of):
    with pytest.raises(InputError, match="problem_type: single_label_classification and 3 outputs"):
        measured(task_of(), weather_model)
    suite = task_of(
        [("wet", "warm", "rain")], ["accuracy"], problem_type="single_label_classification"
    )
    with pytest.raises(InputError, match="no output for"):
        measured(suite, number_model("m"))


NUMBERS = {"kind": "classification", "dataset_name": "org/x", "problem_type": "regression"}
NAMES = NUMBERS | {"problem_type": "single_label_classification"}


@pytest.mark.parametrize(
    ("data", "fields", "message"),
    [
        (
            NUMBERS,
            {"metrics": ["accuracy"]},
            r"metrics: accuracy is of labels that are names, .* \[p",
        ),
        (NUMBERS, {}, "metrics: accuracy is of labels that are names"),
        (NUMBERS, {"metrics": ["mse", "mse"]}, "metrics: mse comes twice"),
        (NAMES, {"metrics": ["mse"]}, "metrics: mse is of labels that are numbers; write others"),
        (
            NUMBERS | {"labels": ["a", "b"]},
            {"metrics": ["mse"]},
            "data: a regression has no `labels`",
        ),
        (NUMBERS, {"kind": "ood", "out_labels": ["1"]}, "data: a model that gives a number has no"),
        (
            NAMES | {"problem_type": "ranking"},
            {},
            "data.problem_type: input should be .* or `regres",
        ),
    ],
)
def test_what_does_not_fit_numbers_is_refused(data, fields, message):
    task = {"kind": "classification", "name": "t", "data": data, **fields}
    with pytest.raises(InputError, match=message):
        checked_part({"name": "s", "tasks": [task]}, Suite, "suite")


def test_sts_b_has_glues_metrics_of_numbers():
    (task,) = [one for one in find_suite("glue_classifiers").tasks if one.name == "stsb"]
    assert task.metrics == ["pearson", "spearman"]
    assert task.data.problem_type == "regression"
    assert (task.data.dataset_config, task.data.dataset_split) == ("stsb", "validation")
    assert task.data.columns == {"text": "sentence1", "text_pair": "sentence2"}


def test_a_file_in_place_of_sts_bs_rows_has_numbers_too(tmp_path):
    path = tmp_path / "dev.jsonl"
    path.write_text('{"a": "wet", "sentence2": "warm", "score": 2.5}\n')
    replaced = with_data(
        find_suite("glue_classifiers"), [f"stsb={path}"], ["stsb.text=a", "stsb.label=score"]
    )
    (task,) = [one for one in replaced.tasks if one.name == "stsb"]
    assert task.data.problem_type == "regression"
    assert labelled_rows(task.data, seed=0) == [{"text": "wet", "text_pair": "warm", "label": 2.5}]
