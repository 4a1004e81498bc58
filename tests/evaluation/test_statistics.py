import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.evaluation.statistics import (
    bootstrap_mean,
    bootstrap_ratio,
    paired_difference,
    t_interval,
    t_quantile,
)

# Student's t, two-sided, as printed in every table.
TABLE = {
    (0.95, 1): 12.706,
    (0.95, 2): 4.303,
    (0.95, 3): 3.182,
    (0.95, 4): 2.776,
    (0.95, 9): 2.262,
    (0.95, 30): 2.042,
    (0.95, 120): 1.980,
    (0.99, 1): 63.657,
    (0.99, 2): 9.925,
    (0.99, 5): 4.032,
    (0.90, 2): 2.920,
    (0.50, 1): 1.000,
}


@pytest.mark.parametrize(("confidence", "degrees"), TABLE)
def test_t_quantiles_are_those_of_the_tables(confidence, degrees):
    assert t_quantile(confidence, degrees) == pytest.approx(TABLE[confidence, degrees], abs=6e-4)


def test_t_approaches_the_normal_distribution():
    assert t_quantile(0.95, 20_001) == pytest.approx(1.959964, abs=2e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 6])
def test_t_quantiles_agree_with_the_integral_of_the_density(degrees):
    t = np.linspace(0, t_quantile(0.8, degrees), 200_001)
    density = (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    norm = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
    assert 2 * norm * np.trapezoid(density, t) == pytest.approx(0.8, abs=1e-8)


def test_a_t_interval_worked_by_hand():
    # 1, 2, 3: mean 2, deviation 1, error 1 / sqrt 3, two degrees of freedom: 4.3027.
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval.value == 2
    assert interval.high - 2 == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert 2 - interval.low == pytest.approx(interval.high - 2)


def test_t_intervals_hold_the_true_mean_as_often_as_they_say():
    runs = np.random.default_rng(0).normal(5.0, 2.0, (1000, 3))
    held = [t_interval(run).low < 5 < t_interval(run).high for run in runs]
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


def test_bootstrap_intervals_hold_the_true_mean_about_as_often_as_they_say():
    samples = np.random.default_rng(0).random((200, 100)) < 0.3
    held = [
        interval.low <= 0.3 <= interval.high
        for i, sample in enumerate(samples)
        for interval in [bootstrap_mean(sample.astype(float), seed=i).interval]
    ]
    assert 0.89 <= np.mean(held) <= 0.99


def test_a_bootstrap_interval_is_that_of_the_normal_approximation_for_many_examples():
    values = np.random.default_rng(1).normal(10.0, 3.0, 5000)
    interval = bootstrap_mean(values, seed=0).interval
    half = 1.96 * values.std() / math.sqrt(5000)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_a_ratio_weighs_examples_by_their_denominator():
    assert bootstrap_ratio([1.0, 2.0], [1.0, 4.0], seed=0).interval.value == pytest.approx(0.6)


def test_numerators_and_denominators_are_resampled_together():
    lengths = np.array([1.0, 10.0, 100.0, 1000.0])
    interval = bootstrap_ratio(3 * lengths, lengths, seed=0).interval
    assert interval.low == pytest.approx(3)
    assert interval.high == pytest.approx(3)


def test_the_seed_decides_the_bootstrap():
    values = np.arange(30.0)
    assert bootstrap_mean(values, seed=1).interval == bootstrap_mean(values, seed=1).interval
    assert bootstrap_mean(values, seed=1).interval != bootstrap_mean(values, seed=2).interval


def test_many_examples_are_resampled_in_parts():
    values = np.random.default_rng(0).random(10_000)
    interval = bootstrap_mean(values, seed=0).interval
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.2887 / 100, rel=0.1)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.integers(0, 5))
def test_bootstrap_bounds_lie_within_the_examples(values, seed):
    interval = bootstrap_mean(values, seed=seed).interval
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9


def test_one_example_has_an_interval_without_width():
    interval = bootstrap_mean([2.0], seed=0).interval
    assert (interval.value, interval.low, interval.high) == (2, 2, 2)


def test_a_paired_difference_forgets_what_pairs_share():
    difference = paired_difference([11.0, 21.2, 31.1], [10.0, 20.0, 30.0])
    assert difference.interval.value == pytest.approx(1.1)
    assert difference.is_same_sign
    assert difference.num_pairs == 3
    assert difference.is_claim


@pytest.mark.parametrize(
    ("first", "is_same_sign", "is_claim"),
    [
        ([1.0, 1.1, 0.9], True, True),
        ([-1.0, -1.1, -0.9], True, True),
        ([0.1, 5.0, 0.1], True, False),
        ([1.0, 1.0, 0.0], False, False),
        ([1.0, -1.0, 1.0], False, False),
    ],
)
def test_a_claim_needs_one_sign_and_an_interval_without_zero(first, is_same_sign, is_claim):
    difference = paired_difference(first, [0.0, 0.0, 0.0])
    assert (difference.is_same_sign, difference.is_claim) == (is_same_sign, is_claim)


def test_one_run_or_unequal_pairs_are_a_mistake():
    with pytest.raises(AssertionError):
        t_interval([1.0])
    with pytest.raises(AssertionError):
        paired_difference([1.0, 2.0], [1.0])
