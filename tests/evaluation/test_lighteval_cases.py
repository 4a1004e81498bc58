"""The public metric cases of lighteval, through the functions that measure."""

import json

import numpy as np
import pytest

from llmkd.evaluation import text_metrics
from llmkd.evaluation.label_metrics import count_labels
from llmkd.evaluation.reasoning_metrics import avg_at_k, pass_at_k
from llmkd.evaluation.scored_labels import ScoredLabels
from llmkd.evaluation.text_units import bits_per_byte, byte_perplexity, word_perplexity
from llmkd.rewards.exact import exact_match
from llmkd.rewards.maths import math_verify

pytestmark = pytest.mark.real_data

OF_ONE_TEXT = {
    "f1_score": text_metrics.f1_score,
    "rouge1": text_metrics.TEXT_METRICS["rouge1"],
    "rouge2": text_metrics.TEXT_METRICS["rouge2"],
    "rougeL": text_metrics.TEXT_METRICS["rougeL"],
    "bleu_4": text_metrics.bleu_4,
}


@pytest.fixture
def cases(real_data):
    def read(name):
        path = real_data / "references" / "lighteval_metric_cases" / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8"))["test_cases"]

    return read


def golds(doc):
    indices = doc["gold_index"]
    return [doc["choices"][i] for i in (indices if isinstance(indices, list) else [indices])]


def expected(case):
    """The only number of a case, and how near one has to come to it."""
    value = case["expected_output"]
    if isinstance(value, dict):
        (value,) = value.values()
    return pytest.approx(value, abs=case["tolerance"])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("f1_score", 7),
        ("rouge1", 1),
        ("rouge2", 3),
        ("rougeL", 3),
        ("bleu_4", 6),
    ],
)
def test_a_text_scores_against_its_references(cases, name, count):
    assert len(cases(name)) == count
    for case in cases(name):
        (text,) = case["model_response"]["text"]
        assert OF_ONE_TEXT[name](text, golds(case["doc"])) == expected(case), case["name"]


def test_a_text_is_its_reference(cases):
    assert len(cases("exact_match")) == 2
    for case in cases("exact_match"):
        (text,), (gold,) = case["model_response"]["text"], golds(case["doc"])
        assert exact_match(text, gold).is_right == expected(case), case["name"]


@pytest.mark.parametrize("name", ["macro_f1", "micro_f1"])
def test_all_texts_score_as_labels(cases, name):
    of_name = cases("f1_score_" + name.removesuffix("_f1"))
    assert len(of_name) == 4
    for case in of_name:
        texts = [text for response in case["model_responses"] for text in response["text"]]
        references = [gold for doc in case["docs"] for gold in golds(doc)]
        # Every text is a label, and the one that a classifier favours.
        labels = sorted({*texts, *references})
        favoured = np.eye(len(labels))[[labels.index(text) for text in texts]]
        wanted = np.array([labels.index(reference) for reference in references])
        counts = count_labels(ScoredLabels(wanted, favoured), np.arange(len(texts))[None])
        assert getattr(counts, name)[0] == expected(case), case["name"]


@pytest.mark.parametrize(
    ("name", "grade"), [("pass_at_k", exact_match), ("pass_at_k_math", math_verify)]
)
def test_one_of_k_samples_is_right(cases, name, grade):
    assert len(cases(name)) == 3
    for case in cases(name):
        (gold,), texts = golds(case["doc"]), case["model_response"]["text"]
        n, k = case["metric_params"]["n"], case["metric_params"]["k"]
        num_right = sum(grade(text, gold).is_right for text in texts[:n])
        assert pass_at_k(n, num_right, k) == expected(case), case["name"]


def test_the_mean_of_the_first_k_samples(cases):
    assert len(cases("avg_at_k_math")) == 3
    for case in cases("avg_at_k_math"):
        (gold,), texts = golds(case["doc"]), case["model_response"]["text"]
        is_right = [math_verify(text, gold).is_right for text in texts]
        assert avg_at_k(is_right, case["metric_params"]["k"]) == expected(case), case["name"]


def test_perplexity_per_word_of_all_texts(cases):
    assert len(cases("word_perplexity")) == 3
    for case in cases("word_perplexity"):
        loss = -sum(sum(response["logprobs"]) for response in case["model_responses"])
        num_words = sum(len(doc["query"].split()) for doc in case["docs"])
        assert word_perplexity(loss / num_words) == expected(case), case["name"]


@pytest.mark.parametrize("name", ["bits_per_byte", "byte_perplexity"])
def test_the_cases_per_byte_hold_no_log_probabilities(cases, name):
    # Their numbers are positive, so no model can have given them, and 1.0 is a placeholder that
    # lighteval's own harness passes over: it looks only whether there is a result. What these inputs
    # give by the definition is worked out here.
    (case,) = cases(name)
    assert all(logprob > 0 for logprob in case["model_response"]["logprobs"])
    assert case["expected_output"] == {name: 1.0}
    total, num_bytes = 0.5 + 0.3 + 0.2, len(case["doc"]["query"].encode())
    # -1 nat over 28 bytes is -1 / (28 ln 2) bits per byte; over 30 bytes exp(-1/30).
    function, value = {
        "bits_per_byte": (bits_per_byte, -0.0515248),
        "byte_perplexity": (byte_perplexity, 0.9672161),
    }[name]
    assert function(-total / num_bytes) == pytest.approx(value, abs=1e-7)
