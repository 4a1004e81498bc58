import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from llmkd.evaluation.detection import detection

METRICS = ("auroc", "aupr_in", "aupr_out", "fpr_at_95_recall")
# Few different ones, so that examples tie.
examples = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1), st.booleans()),
    min_size=2,
    max_size=60,
)


def of_all(found):
    confidences, is_in = map(np.array, zip(*found, strict=True))
    return detection(confidences, is_in, np.arange(len(found))[None])


def values(found):
    whole = of_all(found)
    return {name: getattr(whole, name)[0] for name in METRICS}


def test_values_worked_out_by_hand():
    found = [(0.9, True), (0.8, False), (0.7, True), (0.7, False), (0.1, False)]
    one = values(found)
    # Pairs of in and out: 0.9 is above all three; 0.7 above 0.1, level with 0.7, below 0.8.
    assert one["auroc"] == pytest.approx((3 + 1.5) / 6)
    # Recall 1/2 at precision 1/1 (0.9), recall 1 at precision 2/4 (down to 0.7).
    assert one["aupr_in"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 4)
    # From below: 1/3 at 1/1 (0.1), 2/3 at 2/3 (up to 0.7), 1 at 3/4 (up to 0.8).
    assert one["aupr_out"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # All of in are there from 0.7 down, where two of the three out are too.
    assert one["fpr_at_95_recall"] == pytest.approx(2 / 3)


@given(examples)
def test_they_are_scikit_learns(found):
    confidences, is_in = map(np.array, zip(*found, strict=True))
    assume(0 < is_in.sum() < len(found))
    ours = values(found)
    assert ours["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(is_in, confidences))
    in_as_positive = sklearn_metrics.average_precision_score(is_in, confidences)
    assert ours["aupr_in"] == pytest.approx(in_as_positive)
    out_as_positive = sklearn_metrics.average_precision_score(~is_in, -confidences)
    assert ours["aupr_out"] == pytest.approx(out_as_positive)
    let_in, found_in, _ = sklearn_metrics.roc_curve(is_in, confidences, drop_intermediate=False)
    least = let_in[found_in >= 0.95 - 1e-9].min()
    assert ours["fpr_at_95_recall"] == pytest.approx(least)


@given(examples)
def test_only_the_order_of_confidences_counts(found):
    found = [(round(confidence, 6), is_in) for confidence, is_in in found]
    stretched = [(3 * confidence - 7, is_in) for confidence, is_in in found]
    assert values(found) == pytest.approx(values(stretched), nan_ok=True)


@given(examples)
def test_turning_round_in_and_out_turns_the_area(found):
    turned = [(confidence, not is_in) for confidence, is_in in found]
    mirrored = [(-confidence, not is_in) for confidence, is_in in found]
    one, other = values(found), values(mirrored)
    assert one["auroc"] == pytest.approx(1 - values(turned)["auroc"], nan_ok=True)
    assert one["auroc"] == pytest.approx(other["auroc"], nan_ok=True)
    assert one["aupr_in"] == pytest.approx(other["aupr_out"], nan_ok=True)


@given(examples, st.integers(0, 2**32 - 1))
def test_every_sample_is_measured_as_if_it_were_alone(found, seed):
    samples = np.random.default_rng(seed).integers(0, len(found), (3, len(found)))
    confidences, is_in = map(np.array, zip(*found, strict=True))
    together = detection(confidences, is_in, samples)
    for i, sample in enumerate(samples):
        alone = of_all([found[j] for j in sample])
        for name in METRICS:
            assert getattr(together, name)[i] == pytest.approx(getattr(alone, name)[0], nan_ok=True)


def test_confidences_that_say_nothing_and_those_that_say_all():
    level = [(0.5, i % 4 == 0) for i in range(20)]
    assert values(level) == pytest.approx(
        {"auroc": 0.5, "aupr_in": 0.25, "aupr_out": 0.75, "fpr_at_95_recall": 1.0}
    )
    apart = [(float(i < 5), i < 5) for i in range(20)]
    assert values(apart) == {"auroc": 1, "aupr_in": 1, "aupr_out": 1, "fpr_at_95_recall": 0}


def test_95_percent_of_20_are_19():
    found = [(1.0, True)] * 19 + [(0.5, False), (0.25, True)]
    assert values(found)["fpr_at_95_recall"] == 0
    found = [(1.0, True)] * 18 + [(0.5, False), (0.25, True), (0.25, True)]
    assert values(found)["fpr_at_95_recall"] == 1


@pytest.mark.parametrize("is_in", [True, False])
def test_examples_of_one_kind_have_nothing_to_measure(is_in):
    assert all(map(np.isnan, values([(0.2, is_in), (0.3, is_in)]).values()))
