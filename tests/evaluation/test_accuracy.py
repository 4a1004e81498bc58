"""Accuracy of real, tiny classifiers."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from llmkd.data.words import vocabulary_of, word_tokenizer
from llmkd.errors import InputError
from llmkd.evaluation.accuracy import ScoredLabels, bootstrap_macro_f1, macro_f1
from llmkd.evaluation.evaluate import evaluate
from llmkd.evaluation.suites import find_suite, with_data
from llmkd.models.classifiers import head_config
from llmkd.recipe.evaluation import Suite

LABELS = ["rain", "sun", "wind"]
TEXTS = ["wet wet", "warm warm", "loud loud", "wet warm loud cold"]


@pytest.fixture
def model_folder(tmp_path):
    """A BERT that says `rain` of `wet`, `sun` of `warm`, `wind` of `loud`: its first word decides."""
    tokenizer = word_tokenizer(vocabulary_of(TEXTS + TEXTS))
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
        **head_config(LABELS),
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    batch = tokenizer(TEXTS[:3], return_tensors="pt")
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch, labels=torch.arange(3)).loss.backward()
        optimizer.step()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def suite_of(tmp_path):
    def make(*pairs, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in pairs))
        data = {"kind": "classification", "dataset_name": str(path), **fields}
        task = {"kind": "accuracy", "name": "weather", "data": data}
        return Suite.model_validate({"name": "s", "tasks": [task]})

    return make


def measured(suite, folder, batch_size=2):
    found = evaluate(
        [("m", str(folder))], suite, batch_size=batch_size, seed=0, progress=lambda *_: None
    )
    return {record.metric: record for record in found.records}, found.details.as_data()


def test_a_trained_classifier_is_right_where_it_should_be(model_folder, suite_of):
    pairs = [("wet wet", "rain"), ("warm warm", "sun"), ("loud loud", "wind"), ("wet wet", "sun")]
    records, details = measured(suite_of(*pairs), model_folder)
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


def test_batches_padding_and_order_change_nothing(model_folder, suite_of):
    texts = ["loud", "wet warm loud cold", "wet wet", "warm warm warm", "warm"]
    pairs = [(text, LABELS[i % 3]) for i, text in enumerate(texts)]
    suite = suite_of(*pairs)
    one, together = (measured(suite, model_folder, size) for size in (1, 5))
    assert one[0] == together[0]
    assert [s["answers"] for s in one[1]["samples"]] == [
        s["answers"] for s in together[1]["samples"]
    ]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder).eval()
    for (text, _), sample in zip(pairs, one[1]["samples"], strict=True):
        favourite = int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())
        assert sample["answers"]["m"]["text"] == LABELS[favourite]
    for alone, shared in zip(one[1]["reliability"][0]["bins"], together[1]["reliability"][0]["bins"], strict=True):  # fmt: skip
        assert alone["confidence"] == pytest.approx(shared["confidence"], rel=1e-5)


def test_labels_that_the_model_does_not_have_are_refused(model_folder, suite_of):
    with pytest.raises(InputError, match=r"no output for \('snow'\); it has 'rain', 'sun', 'wind'"):
        measured(suite_of(("wet wet", "snow")), model_folder)


def test_given_labels_name_outputs_that_have_no_names_and_are_counted_by_rows(
    model_folder, suite_of
):
    config = AutoConfig.from_pretrained(model_folder)
    config.id2label = {i: f"LABEL_{i}" for i in range(3)}
    config.label2id = {f"LABEL_{i}": i for i in range(3)}
    config.save_pretrained(model_folder)
    pairs = [("wet wet", "rain"), ("warm warm", "1"), ("loud loud", 2), ("wet wet", "sun")]
    records, details = measured(suite_of(*pairs, labels=LABELS), model_folder)
    assert records["accuracy"].value == 0.75
    samples = [(s["reference"], s["answers"]["m"]["text"]) for s in details["samples"]]
    assert samples == [("rain", "rain"), ("sun", "sun"), ("wind", "wind"), ("sun", "rain")]
    with pytest.raises(InputError, match=r"labels: are 2, and the model has 3 outputs"):
        measured(suite_of(*pairs, labels=["rain", "sun"]), model_folder)


def test_given_labels_that_the_model_does_not_have_are_refused(model_folder, suite_of):
    with pytest.raises(InputError, match=r"are not the model's, which has 'rain', 'sun', 'wind'"):
        measured(suite_of(("wet wet", "rain"), labels=["sun", "rain", "wind"]), model_folder)


def test_long_texts_are_cut_and_counted_or_refused(model_folder, suite_of, capsys):
    pairs = [("wet " * 30, "rain"), ("wet", "rain")]
    with pytest.raises(InputError, match=r"tasks.weather.data.max_length: 32 tokens .* 16 pos"):
        measured(suite_of(*pairs), model_folder)
    records, _ = measured(suite_of(*pairs, max_length=16), model_folder)
    assert records["accuracy"].num_examples == 2
    assert "weather: 1 of 2 rows were cut to 16" in capsys.readouterr().err


def test_a_language_model_is_refused(suite_of, tokenizer, tiny_llama, tmp_path):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    with pytest.raises(InputError, match="is no trained classifier, as score"):
        measured(suite_of(("1+1", "rain")), tmp_path / "llm")


def test_a_suite_takes_another_file_for_the_command_line(model_folder, suite_of, tmp_path):
    suite = suite_of(("wet wet", "rain"))
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "wet wet", "label": "sun"}\n')
    replaced = find_suite(with_data(suite, [f"weather={other}"]))
    records, _ = measured(replaced, model_folder)
    assert records["accuracy"].value == 0


def by_definition(gold, found):
    """Macro F1 from precision and recall, label by label."""
    scores = []
    for label in set(gold) | set(found):
        hits = sum(g == f == label for g, f in zip(gold, found, strict=True))
        precision = hits / max(1, found.count(label))
        recall = hits / max(1, gold.count(label))
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return sum(scores) / len(scores)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_macro_f1_is_the_mean_of_harmonic_means(pairs):
    gold, found = ([pair[i] for pair in pairs] for i in (0, 1))
    ours = macro_f1(np.array(gold), np.array(found))
    assert ours == pytest.approx(by_definition(gold, found), abs=1e-12)
    assert ours == pytest.approx(macro_f1(np.array(found), np.array(gold)))


def test_the_interval_of_macro_f1_narrows_with_examples():
    draw = np.random.default_rng(0)
    widths = []
    for num_examples in (50, 500, 5000):
        gold = draw.integers(0, 4, num_examples)
        found = np.where(draw.random(num_examples) < 0.8, gold, draw.integers(0, 4, num_examples))
        interval = bootstrap_macro_f1(ScoredLabels(gold, found, [], []), seed=0).interval
        assert interval.low < interval.value < interval.high
        widths.append(interval.high - interval.low)
    assert all(wide > 2 * narrow for wide, narrow in pairwise(widths))
