import math
from dataclasses import replace

import numpy as np
import pytest

from llmkd.evaluation.differences import are_comparable, difference, verdict_of
from llmkd.evaluation.measured import Estimate
from llmkd.evaluation.short_names import short_names
from llmkd.evaluation.statistics import bootstrap, bootstrap_mean, one_by_one


def estimate(values, metric="accuracy", seed=0):
    return Estimate(metric, bootstrap_mean(values, seed=seed), len(values))


def compare(one, other):
    return difference(one, other, suite="s", task="t", models=("new", "old"))


def test_a_difference_that_every_example_shares_has_no_width_however_examples_vary():
    values = np.random.default_rng(0).random(50)
    found = compare(estimate(values + 0.25), estimate(values))
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((0.25, 0.25, 0.25))
    assert (found.model, found.baseline, found.verdict) == ("new", "old", "better")


def test_pairs_find_what_two_intervals_side_by_side_do_not():
    draw = np.random.default_rng(1)
    hard = draw.random(400) < 0.5
    old = hard.astype(float)
    new = np.where(draw.random(400) < 0.1, 1.0, old)
    found = compare(estimate(new), estimate(old))
    apart = estimate(new).found.interval.low > estimate(old).found.interval.high
    assert not apart
    assert found.verdict == "better"


def test_two_models_that_differ_by_chance_are_called_noise_about_19_times_in_20():
    verdicts = []
    for seed in range(100):
        draw = np.random.default_rng(seed)
        old, new = (draw.random(200) < 0.4).astype(float), (draw.random(200) < 0.4).astype(float)
        verdicts.append(compare(estimate(new, seed=seed), estimate(old, seed=seed)).verdict)
    assert 0.88 <= verdicts.count("noise") / 100 <= 0.99


@pytest.mark.parametrize(
    ("metric", "low", "high", "word"),
    [
        ("accuracy", 0.1, 0.2, "better"),
        ("accuracy", -0.2, -0.1, "worse"),
        ("perplexity", 0.1, 0.2, "worse"),
        ("pass@8", -0.2, -0.1, "worse"),
        ("tokens", 0.1, 0.2, "more"),
        ("tokens", -2.0, -1.0, "less"),
        ("accuracy", -0.1, 0.2, "noise"),
        ("accuracy", 0.0, 0.2, "noise"),
        ("auroc", math.nan, math.nan, "not known"),
    ],
)
def test_the_word_says_which_way_is_good(metric, low, high, word):
    assert verdict_of(metric, low, high) == word


def test_a_statistic_of_any_kind_is_resampled_alike_for_all_models():
    values = np.arange(20.0)
    slow = bootstrap(one_by_one(lambda chosen: float(values[chosen].mean())), 20, seed=3)
    fast = bootstrap_mean(values, seed=3)
    np.testing.assert_allclose(slow.resampled, fast.resampled)
    assert slow.minus(fast).high == pytest.approx(0)


def test_resamples_without_a_value_do_not_count():
    def only_with_a_zero(chosen):
        return float((chosen == 0).any()) or math.nan

    found = bootstrap(one_by_one(only_with_a_zero), 3, seed=0)
    assert np.isnan(found.resampled).any()
    assert (found.interval.low, found.interval.high) == (1, 1)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["/m/a/hf", "/m/b/hf", "student"], ["a/hf", "b/hf", "student"]),
        (["/m/a", "/m/b"], ["a", "b"]),
        (["a/hf", "hf"], ["a/hf", "hf"]),
        (["x"], ["x"]),
    ],
)
def test_names_are_as_short_as_they_still_differ(names, short):
    assert list(short_names(names).values()) == short


def test_nothing_is_said_of_time_which_another_measurement_would_give_otherwise():
    one, other = estimate([3.0, 3.1, 3.2]), estimate([1.0, 1.1, 1.2])
    assert compare(one, other).verdict == "better"
    timed = replace(one, is_repeatable=False)
    assert compare(timed, other).verdict == "not known"


def test_losses_per_token_of_other_tokens_are_not_compared():
    one = replace(estimate([1.0, 2.0]), unit="tokens of one")
    assert are_comparable(one, one)
    assert not are_comparable(one, replace(one, unit="tokens of another"))
    assert not are_comparable(one, estimate([1.0, 2.0, 3.0]))
