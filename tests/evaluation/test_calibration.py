from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from llmkd.evaluation.calibration import (
    area_under_risk_coverage,
    brier_scores,
    expected_calibration_error,
)
from llmkd.evaluation.reliability import Reliability
from llmkd.evaluation.scored_labels import ScoredLabels

NUM_LABELS = 3
logits = st.lists(st.floats(-5, 5), min_size=NUM_LABELS, max_size=NUM_LABELS)
# Few different ones, so that examples tie.
coarse = st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=NUM_LABELS, max_size=NUM_LABELS)
answers = st.lists(
    st.tuples(st.integers(0, NUM_LABELS - 1), logits | coarse), min_size=1, max_size=40
)


def scored(found):
    return ScoredLabels(
        np.array([label for label, _ in found]), np.array([row for _, row in found])
    )


def sure(probability, *, is_right):
    """Of two labels, the first with this probability."""
    return (0 if is_right else 1, [np.log(probability), np.log(1 - probability)])


def of_all(statistic, found):
    return statistic(scored(found), np.arange(len(found))[None])[0]


def test_values_worked_out_by_hand():
    found = [
        sure(0.9, is_right=True),
        sure(0.92, is_right=False),
        sure(0.8, is_right=True),
        sure(0.55, is_right=False),
    ]
    # 0.9 and 0.92 are in the bin [13/15, 14/15): |1 - 1.82|; 0.8 in its own: 0.2; 0.55: 0.55.
    assert of_all(expected_calibration_error, found) == pytest.approx((0.82 + 0.2 + 0.55) / 4)
    # Right: 2 (1 - p)^2; wrong: 2 p^2.
    by_hand = [2 * 0.1**2, 2 * 0.92**2, 2 * 0.2**2, 2 * 0.55**2]
    assert brier_scores(scored(found)) == pytest.approx(by_hand)
    # Surest first: wrong, right, right, wrong; errors so far 1/1, 1/2, 1/3, 2/4.
    assert of_all(area_under_risk_coverage, found) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_the_worst_and_the_best():
    wrong = (1, [1000.0, 0.0, 0.0])
    right = (0, [1000.0, 0.0, 0.0])
    for found, error in ((wrong, 1.0), (right, 0.0)):
        assert brier_scores(scored([found])) == pytest.approx([2 * error])
        assert of_all(expected_calibration_error, [found, found]) == error
        assert of_all(area_under_risk_coverage, [found, found]) == error


@given(answers)
def test_brier_is_scikit_learns_score_over_all_labels(found):
    ours = scored(found)
    theirs = brier_score_loss(
        ours.label_ids, ours.probabilities, labels=range(NUM_LABELS), scale_by_half=False
    )
    assert brier_scores(ours).mean() == pytest.approx(theirs, abs=1e-12)


@given(answers)
def test_the_calibration_error_is_that_of_the_bins_of_the_report(found):
    ours, gathered = scored(found), Reliability()
    gathered.add(ours.confidences, ours.is_right)
    by_bins = sum(one.count * abs(one.accuracy - one.confidence) for one in gathered.bins()) / len(
        found
    )
    assert of_all(expected_calibration_error, found) == pytest.approx(by_bins, abs=1e-12)
    assert 0 <= by_bins <= 1
    # Never less than how far all predictions together are off.
    apart = abs(ours.is_right.mean() - ours.confidences.mean())
    assert by_bins >= apart - 1e-12


def risks_in_order(is_wrong):
    return np.mean([np.mean(is_wrong[: i + 1]) for i in range(len(is_wrong))])


@given(
    st.lists(st.tuples(st.integers(0, 1), coarse.map(lambda row: row[:2])), min_size=1, max_size=6)
)
def test_equally_sure_examples_come_in_every_order_alike(found):
    ours = scored(found)
    confidences, is_wrong = ours.confidences, ~ours.is_right
    orders = [
        order
        for order in permutations(range(len(found)))
        if (np.diff(confidences[list(order)]) <= 0).all()
    ]
    mean = np.mean([risks_in_order(is_wrong[list(order)]) for order in orders])
    assert of_all(area_under_risk_coverage, found) == pytest.approx(mean, abs=1e-12)


@given(answers, st.integers(0, 2**32 - 1))
def test_order_changes_nothing_and_every_sample_is_measured_as_if_alone(found, seed):
    draw = np.random.default_rng(seed)
    mixed = [found[i] for i in draw.permutation(len(found))]
    samples = draw.integers(0, len(found), (3, len(found)))
    for statistic in (expected_calibration_error, area_under_risk_coverage):
        assert of_all(statistic, mixed) == pytest.approx(of_all(statistic, found), abs=1e-12)
        alone = [of_all(statistic, [found[i] for i in sample]) for sample in samples]
        assert statistic(scored(found), samples) == pytest.approx(alone, abs=1e-12)


@given(answers)
def test_the_area_lies_between_that_of_the_best_order_and_that_of_the_worst(found):
    wrong = np.sort(~scored(found).is_right)
    area = of_all(area_under_risk_coverage, found)
    assert risks_in_order(wrong) - 1e-12 <= area <= risks_in_order(wrong[::-1]) + 1e-12
