import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from llmkd.evaluation.label_metrics import count_labels
from llmkd.evaluation.scored_labels import ScoredLabels

NUM_LABELS = 4
labels = st.integers(0, NUM_LABELS - 1)
pairs = st.lists(st.tuples(labels, labels), min_size=1, max_size=30)


def scored(found):
    gold, favourites = np.array(found).T
    return ScoredLabels(gold, np.eye(NUM_LABELS)[favourites])


def whole(found):
    return count_labels(scored(found), np.arange(len(found))[None])


def test_values_worked_out_by_hand():
    # Wanted 0 0 0 1, given 0 0 1 1. Of 0: TP 2, FN 1, so F1 = 4/5; of 1: TP 1, FP 1, so F1 = 2/3.
    counts = whole([(0, 0), (0, 0), (0, 1), (1, 1)])
    assert counts.f1[0, :2] == pytest.approx([4 / 5, 2 / 3])
    # Labels 2 and 3 occur nowhere, and do not count.
    assert counts.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert counts.micro_f1 == pytest.approx(3 / 4)
    # (TP TN - FP FN) / sqrt(...) of label 1: (1 * 2 - 1 * 0) / sqrt(2 * 1 * 3 * 2).
    assert counts.mcc == pytest.approx(2 / np.sqrt(12))


@given(pairs)
def test_they_are_scikit_learns(found):
    gold, favourites = np.array(found).T
    counts = whole(found)
    occurring = sorted({*gold, *favourites})
    settings = {"labels": occurring, "zero_division": 0}
    for average, ours in (("macro", counts.macro_f1), ("micro", counts.micro_f1)):
        theirs = sklearn_metrics.f1_score(gold, favourites, average=average, **settings)
        assert ours == pytest.approx(theirs, abs=1e-12)
    for label in range(NUM_LABELS):
        theirs = sklearn_metrics.f1_score(gold == label, favourites == label, zero_division=0)
        assert counts.f1[0, label] == pytest.approx(theirs, abs=1e-12)
    if len(occurring) > 1:  # Of one label, theirs warns.
        theirs = sklearn_metrics.matthews_corrcoef(gold, favourites)
        assert counts.mcc == pytest.approx(theirs, abs=1e-12)


@given(pairs)
def test_micro_f1_is_the_accuracy(found):
    gold, favourites = np.array(found).T
    assert whole(found).micro_f1 == pytest.approx((gold == favourites).mean())


@given(pairs, st.integers(0, 2**32 - 1))
def test_every_sample_is_measured_as_if_it_were_alone(found, seed):
    samples = np.random.default_rng(seed).integers(0, len(found), (3, len(found)))
    together = count_labels(scored(found), samples)
    for i, sample in enumerate(samples):
        alone = whole([found[j] for j in sample])
        assert together.macro_f1[i] == alone.macro_f1[0]
        assert together.mcc[i] == alone.mcc[0]


@given(pairs)
def test_correlation_is_symmetric_and_turns_with_two_labels_swapped(found):
    two = [(gold % 2, favourite % 2) for gold, favourite in found]
    turned = [(gold, 1 - favourite) for gold, favourite in two]
    exchanged = [(favourite, gold) for gold, favourite in two]
    assert whole(two).mcc == pytest.approx(-whole(turned).mcc)
    assert whole(two).mcc == pytest.approx(whole(exchanged).mcc)


def test_a_single_label_has_no_correlation():
    assert whole([(1, 1), (1, 1)]).mcc == 0
    assert whole([(1, 1), (1, 2)]).mcc == 0
