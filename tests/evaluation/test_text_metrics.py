import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from llmkd.evaluation.text_metrics import (
    TEXT_METRICS,
    bleu_4,
    f1_score,
    rouge,
)

words = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=8).map(" ".join)


@pytest.mark.parametrize("name", TEXT_METRICS)
@given(text=words, reference=words)
def test_every_metric_is_a_share_and_nearer_with_more_references(name, text, reference):
    metric = TEXT_METRICS[name]
    one = metric(text, [reference])
    assert 0 <= one <= 1 + 1e-12
    assert metric(text, [reference, "z"]) >= one - 1e-12
    # BLEU-4 of fewer than four words is 0.
    if name != "bleu_4" or len(text.split()) >= 4:
        assert metric(text, [text]) == pytest.approx(1) or (name == "rouge2" and " " not in text)
    assert metric(text, ["z z z z"]) == pytest.approx(0, abs=1e-12)


def test_f1_by_hand():
    # Shared, each as often as in both: a, b. Precision 2/3, recall 2/4.
    assert f1_score("a b b", ["a b c d"]) == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert f1_score("", ["a"]) == 0
    assert f1_score("A", ["a"]) == 0


def test_rouge_by_hand():
    # Pairs of words: "a b", "b c" of the text; "a b", "b d" of the reference. 1/2 and 1/2.
    assert rouge("rouge2", "a b c", ["a b d"]) == pytest.approx(0.5)
    # Longest common subsequence "a c": 2/3 and 2/2.
    assert rouge("rougeL", "a b c", ["a c"]) == pytest.approx(0.8)
    assert rouge("rouge1", "c a", ["a c"]) == pytest.approx(1)
    assert rouge("rougeL", "c a", ["a c"]) == pytest.approx(0.5)


def test_bleu_is_that_of_sacrebleu():
    other = BLEU(effective_order=False, smooth_method="none", tokenize="none")
    pairs = [
        ("the cat sat on the mat today", ["the cat sat on a mat today"]),
        ("the cat sat on the mat", ["the cat sat on the mat today", "a cat sat on the mat"]),
        ("a b c d e f g h", ["a b c d x f g h"]),
    ]
    for text, references in pairs:
        expected = other.sentence_score(text, references).score / 100
        assert 0 < bleu_4(text, references) == pytest.approx(expected)


def test_bleu_warns_of_nothing(recwarn):
    assert bleu_4("a b", ["c d"]) == pytest.approx(0, abs=1e-12)
    assert not recwarn.list
