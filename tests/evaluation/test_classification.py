"""Real, tiny classifiers on labelled rows."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from llmkd.errors import InputError
from llmkd.evaluation import classifier_logits
from llmkd.evaluation.classification import estimated
from llmkd.evaluation.evaluate import evaluate
from llmkd.evaluation.scored_labels import ScoredLabels
from llmkd.evaluation.suites import find_suite, with_data
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.load import checked_part

LABELS = ["rain", "sun", "wind"]


@pytest.fixture
def suite_of(tmp_path):
    def make(*pairs, metrics=("accuracy", "macro_f1"), positive_label=None, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in pairs))
        data = {"kind": "classification", "dataset_name": str(path), **fields}
        task = {
            "kind": "classification",
            "name": "weather",
            "data": data,
            "metrics": list(metrics),
            "positive_label": positive_label,
        }
        return Suite.model_validate({"name": "s", "tasks": [task]})

    return make


def measured(suite, model, batch_size=2, folder=None):
    found = evaluate(
        [("m", str(model))],
        suite,
        batch_size=batch_size,
        seed=0,
        progress=lambda *_: None,
        folder=folder,
    )
    if found.failures:
        raise InputError(str(found.failures[0]))
    return {record.metric: record for record in found.records}, found.details.as_data()


def test_a_trained_classifier_is_right_where_it_should_be(weather_model, suite_of):
    pairs = [("wet wet", "rain"), ("warm warm", "sun"), ("loud loud", "wind"), ("wet wet", "sun")]
    records, details = measured(suite_of(*pairs), weather_model)
    assert records["accuracy"].value == 0.75
    assert records["accuracy"].num_examples == 4
    # rain: 2 / (2 + 1), sun: 2 / (2 + 1), wind: 1.
    assert records["macro_f1"].value == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert records["macro_f1"].ci_low < records["macro_f1"].value < 1
    answers = [(s["prompt"], s["reference"], s["answers"]["m"]) for s in details["samples"]]
    assert [answer["text"] for *_, answer in answers] == ["rain", "sun", "wind", "rain"]
    assert [answer["is_right"] for *_, answer in answers] == [True, True, True, False]
    # A label is chosen, not written token by token.
    assert {answer["num_tokens"] for *_, answer in answers} == {None}
    bins = details["reliability"][0]["bins"]
    assert sum(one["count"] for one in bins) == 4
    assert sum(one["count"] * one["accuracy"] for one in bins) == pytest.approx(3)


def test_batches_padding_and_order_change_nothing(weather_model, suite_of):
    texts = ["loud", "wet warm loud cold", "wet wet", "warm warm warm", "warm"]
    pairs = [(text, LABELS[i % 3]) for i, text in enumerate(texts)]
    suite = suite_of(*pairs)
    one, together = (measured(suite, weather_model, size) for size in (1, 5))
    assert one[0] == together[0]
    assert [s["answers"] for s in one[1]["samples"]] == [
        s["answers"] for s in together[1]["samples"]
    ]
    tokenizer = AutoTokenizer.from_pretrained(weather_model)
    model = AutoModelForSequenceClassification.from_pretrained(weather_model).eval()
    for (text, _), sample in zip(pairs, one[1]["samples"], strict=True):
        favourite = int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())
        assert sample["answers"]["m"]["text"] == LABELS[favourite]
    for alone, shared in zip(one[1]["reliability"][0]["bins"], together[1]["reliability"][0]["bins"], strict=True):  # fmt: skip
        assert alone["confidence"] == pytest.approx(shared["confidence"], rel=1e-5)


def test_labels_that_the_model_does_not_have_are_refused(weather_model, suite_of):
    with pytest.raises(InputError, match=r"no output for \('snow'\); it has 'rain', 'sun', 'wind'"):
        measured(suite_of(("wet wet", "snow")), weather_model)


def test_given_labels_name_outputs_that_have_no_names_and_are_counted_by_rows(
    weather_model, suite_of
):
    config = AutoConfig.from_pretrained(weather_model)
    config.id2label = {i: f"LABEL_{i}" for i in range(3)}
    config.label2id = {f"LABEL_{i}": i for i in range(3)}
    config.save_pretrained(weather_model)
    pairs = [("wet wet", "rain"), ("warm warm", "1"), ("loud loud", 2), ("wet wet", "sun")]
    records, details = measured(suite_of(*pairs, labels=LABELS), weather_model)
    assert records["accuracy"].value == 0.75
    samples = [(s["reference"], s["answers"]["m"]["text"]) for s in details["samples"]]
    assert samples == [("rain", "rain"), ("sun", "sun"), ("wind", "wind"), ("sun", "rain")]
    with pytest.raises(InputError, match=r"labels: are 2, and the model has 3 outputs"):
        measured(suite_of(*pairs, labels=["rain", "sun"]), weather_model)


def test_given_labels_that_the_model_does_not_have_are_refused(weather_model, suite_of):
    with pytest.raises(InputError, match=r"are not the model's, which has 'rain', 'sun', 'wind'"):
        measured(suite_of(("wet wet", "rain"), labels=["sun", "rain", "wind"]), weather_model)


def test_long_texts_are_cut_and_counted_or_refused(weather_model, suite_of, capsys):
    pairs = [("wet " * 30, "rain"), ("wet", "rain")]
    with pytest.raises(InputError, match=r"tasks.weather.data.max_length: 32 tokens .* 16 pos"):
        measured(suite_of(*pairs), weather_model)
    records, _ = measured(suite_of(*pairs, max_length=16), weather_model)
    assert records["accuracy"].num_examples == 2
    assert "tasks.weather.data: 1 of 2 rows were cut to 16" in capsys.readouterr().err


def test_a_language_model_is_refused(suite_of, tokenizer, tiny_llama, tmp_path):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    with pytest.raises(InputError, match="is no trained classifier, as score"):
        measured(suite_of(("1+1", "rain")), tmp_path / "llm")


def test_a_suite_takes_another_file_for_the_command_line(weather_model, suite_of, tmp_path):
    suite = suite_of(("wet wet", "rain"))
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "wet wet", "label": "sun"}\n')
    replaced = find_suite(with_data(suite, [f"weather={other}"]))
    records, _ = measured(replaced, weather_model)
    assert records["accuracy"].value == 0


def test_other_metrics_are_those_of_the_models_own_probabilities(weather_model, suite_of):
    pairs = [("wet wet", "rain"), ("warm cold", "sun"), ("loud wet", "rain"), ("cold", "sun")]
    metrics = ("f1", "mcc", "brier", "ece", "aurc")
    records, details = measured(
        suite_of(*pairs, metrics=metrics, positive_label="sun"), weather_model
    )
    assert list(records) == list(metrics)
    tokenizer = AutoTokenizer.from_pretrained(weather_model)
    model = AutoModelForSequenceClassification.from_pretrained(weather_model).eval()
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text, _ in pairs]
    probabilities = torch.stack(logits).double().softmax(1).numpy()
    gold = [LABELS.index(label) for _, label in pairs]
    found = probabilities.argmax(1)
    f1 = sklearn_metrics.f1_score(gold, found, labels=[1], average="macro", zero_division=0)
    assert records["f1"].value == pytest.approx(f1)
    assert records["mcc"].value == pytest.approx(sklearn_metrics.matthews_corrcoef(gold, found))
    brier = sklearn_metrics.brier_score_loss(
        gold, probabilities, labels=range(3), scale_by_half=False
    )
    assert records["brier"].value == pytest.approx(brier, rel=1e-5)
    bins = details["reliability"][0]["bins"]
    error = sum(one["count"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / 4
    assert records["ece"].value == pytest.approx(error)
    order = np.argsort(-probabilities.max(1))
    is_wrong = (found != np.array(gold))[order]
    assert records["aurc"].value == pytest.approx(np.mean(is_wrong.cumsum() / [1, 2, 3, 4]))


def test_a_positive_label_that_the_model_does_not_have_is_refused(weather_model, suite_of):
    suite = suite_of(("wet", "rain"), metrics=["f1"], positive_label="snow")
    with pytest.raises(
        InputError, match=r"positive_label: .* 'snow'; write one of rain, sun, wind"
    ):
        measured(suite, weather_model)


class KilledError(BaseException):
    pass


def counting(monkeypatch, killed_at=None):
    """Counts the batches that a model is asked for."""
    real, asked = classifier_logits._logits, []

    def logits(model, tokenizer, rows):
        if len(asked) == killed_at:
            raise KilledError
        asked.append(len(rows))
        return real(model, tokenizer, rows)

    monkeypatch.setattr(classifier_logits, "_logits", logits)
    return asked


def test_a_killed_evaluation_goes_on_to_the_same_bits(
    weather_model, suite_of, tmp_path, monkeypatch
):
    texts = ["wet", "warm wet", "loud cold warm", "cold", "wet wet wet"]
    pairs = [(text, LABELS[i % 3]) for i, text in enumerate(texts)]
    suite = suite_of(*pairs, metrics=["accuracy", "brier", "aurc"])
    whole = measured(suite, weather_model)
    with monkeypatch.context() as patch:
        counting(patch, killed_at=2)
        with pytest.raises(KilledError):
            measured(suite, weather_model, folder=tmp_path / "kept")
    asked = counting(monkeypatch)
    assert measured(suite, weather_model, folder=tmp_path / "kept") == whole
    assert asked == [1], "two batches of two were kept"
    measured(suite, weather_model, folder=tmp_path / "kept")
    assert asked == [1]


def test_answers_to_other_rows_are_not_taken(weather_model, suite_of, tmp_path, monkeypatch):
    asked = counting(monkeypatch)
    measured(suite_of(("wet", "rain"), ("warm", "rain")), weather_model, folder=tmp_path / "kept")
    records, _ = measured(
        suite_of(("wet", "rain"), ("wet", "rain")), weather_model, folder=tmp_path / "kept"
    )
    assert (records["accuracy"].value, len(asked)) == (1, 2)


def test_logits_that_are_not_finite_are_counted_and_refused(weather_model, suite_of, monkeypatch):
    monkeypatch.setattr(
        classifier_logits,
        "_logits",
        lambda model, tokenizer, rows: [[0.0, np.nan, 1.0]] * len(rows),
    )
    with pytest.raises(InputError, match="logits of 2 of 2 rows are not finite"):
        measured(suite_of(("wet", "rain"), ("warm", "rain")), weather_model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": ["f1"]}, "positive_label: f1 is of one label"),
        ({"positive_label": "sun"}, "positive_label: f1 is of one label"),
        ({"metrics": ["mcc", "mcc"]}, "metrics: mcc comes twice"),
        ({"metrics": ["fmeasure"]}, "metrics.0"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(fields, message):
    data = {"kind": "task", "task": "intents", "num_examples": 5}
    task = {"kind": "classification", "name": "t", "data": data, **fields}
    with pytest.raises(InputError, match=message):
        checked_part({"name": "s", "tasks": [task]}, Suite, "suite")


def test_the_shipped_suite_measures_calibration():
    tasks = find_suite("calibration").tasks
    assert [task.name for task in tasks] == ["intents", "clinc150"]
    assert all(task.metrics == ["accuracy", "ece", "brier", "aurc"] for task in tasks)


GLUE = {
    "cola": ["mcc"],
    "sst2": ["accuracy"],
    "mrpc": ["f1", "accuracy"],
    "qqp": ["f1", "accuracy"],
    "mnli_matched": ["accuracy"],
    "mnli_mismatched": ["accuracy"],
    "qnli": ["accuracy"],
    "rte": ["accuracy"],
    "wnli": ["accuracy"],
    "stsb": ["pearson", "spearman"],
}


def test_every_glue_task_has_its_official_metric():
    tasks = find_suite("glue_classifiers").tasks
    assert {task.name: task.metrics for task in tasks} == GLUE
    for task in tasks:
        data = task.data
        assert data.dataset_name == "nyu-mll/glue"
        is_mnli = task.name.startswith("mnli")
        assert data.dataset_config == ("mnli" if is_mnli else task.name)
        suffix = task.name.removeprefix("mnli") if is_mnli else ""
        assert data.dataset_split == f"validation{suffix}"
        # Of two sentences, or of one.
        assert ("text_pair" in data.columns) == (task.name not in ("cola", "sst2"))
        if task.name == "stsb":  # A number; see test_regression.py.
            continue
        assert len(data.labels) == (3 if is_mnli else 2)
        assert task.positive_label == (data.labels[1] if "f1" in task.metrics else None)


def scored(gold, favourites, num_labels=4):
    return ScoredLabels(gold, 3 * np.eye(num_labels)[favourites])


@pytest.mark.parametrize("metric", ["macro_f1", "mcc", "brier", "aurc"])
def test_intervals_hold_the_value_and_narrow_with_examples(metric):
    draw = np.random.default_rng(0)
    widths = []
    for num_examples in (50, 500, 5000):
        gold = draw.integers(0, 4, num_examples)
        found = np.where(draw.random(num_examples) < 0.8, gold, draw.integers(0, 4, num_examples))
        interval = estimated(metric, scored(gold, found), seed=0).interval
        assert interval.low < interval.value < interval.high
        widths.append(interval.high - interval.low)
    assert all(wide > 2 * narrow for wide, narrow in pairwise(widths))
