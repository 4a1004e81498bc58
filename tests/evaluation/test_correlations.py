"""Correlations against scipy's, by hand, and over resamples."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from llmkd.evaluation.correlations import pearson, spearman

numbers = st.floats(-100, 100).map(lambda x: round(x, 3))
few = st.sampled_from([0.0, 0.1, 2.5, 5.0])  # So that examples tie.
pairs = st.lists(st.tuples(numbers | few, numbers | few), min_size=2, max_size=25)


def apart(found):
    x, y = np.array(found, float).T
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    return x, y


def whole(correlation, x, y):
    return correlation(x, y, np.arange(len(x))[None])[0]


def test_values_worked_out_by_hand():
    x, y = np.array([1.0, 2.0, 2.0, 5.0]), np.array([0.0, 1.0, 3.0, 4.0])
    # Means 2.5 and 2: sums of products 3 + 0.5 - 0.5 + 5, of squares 9 and 10.
    assert whole(pearson, x, y) == pytest.approx(8 / np.sqrt(9 * 10))
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: products 2.25 + 0 + 0 + 2.25, squares 4.5 and 5.
    assert whole(spearman, x, y) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert whole(spearman, x, x**3) == pytest.approx(1)
    assert whole(pearson, x, -2 * x + 1) == pytest.approx(-1)


@given(pairs)
def test_they_are_scipys(found):
    x, y = apart(found)
    assert whole(pearson, x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    assert whole(pearson, x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert whole(spearman, x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


@given(pairs, st.integers(0, 2**32 - 1))
def test_every_sample_is_measured_as_if_it_were_alone(found, seed):
    x, y = apart(found)
    samples = np.random.default_rng(seed).integers(0, len(x), (3, len(x)))
    for correlation in (pearson, spearman):
        together = correlation(x, y, samples)
        alone = [whole(correlation, x[sample], y[sample]) for sample in samples]
        np.testing.assert_allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_with_a_constant_there_is_none(correlation):
    # The mean of three times 0.1 is not 0.1.
    constant, other = np.full(3, 0.1), np.array([1.0, 2.0, 4.0])
    assert np.isnan(whole(correlation, constant, other))
    assert np.isnan(whole(correlation, other, constant))
    drawn = correlation(other, other, np.array([[0, 0, 0], [0, 1, 2]]))
    assert np.isnan(drawn).tolist() == [True, False]
