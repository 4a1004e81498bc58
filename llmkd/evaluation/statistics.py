"""Intervals: over examples by bootstrap, over seeds by Student's t.

Two questions with two answers. How well does this model do on other examples of this kind? Resample
the examples. Does this method beat that one? Train both with several seeds and look at the paired
differences: a claim needs the same sign in all of them and a t-interval without 0.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
INDICES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate between its bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """How much larger the first of two paired samples is."""

    interval: Interval
    is_same_sign: bool
    """Every single difference has the same sign, and none is 0."""
    num_pairs: int

    @property
    def is_claim(self) -> bool:
        """Whether one may say that one is larger: same sign in all, and an interval without 0."""
        return self.is_same_sign and self.interval.low * self.interval.high > 0


@dataclass(frozen=True)
class Bootstrap:
    """A statistic of some examples, and what it is on 2,000 resamples of them.

    Of one seed and number of examples the resamples are the same, so that two models on the same
    examples can be compared resample by resample.
    """

    value: float
    resampled: Float[np.ndarray, " resamples"]
    """NaN where a resample has nothing to measure, such as a single class."""

    @property
    def interval(self) -> Interval:
        """95 % percentile interval."""
        return Interval(self.value, *_percentiles(self.resampled))

    def minus(self, other: "Bootstrap") -> Interval:
        """95 % percentile interval of how much larger this one is on the same examples."""
        difference = self.resampled - other.resampled
        return Interval(self.value - other.value, *_percentiles(difference))

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "Bootstrap":
        """The same of a function of the statistic."""
        return Bootstrap(float(function(np.array(self.value))), function(self.resampled))


Samples = Int[np.ndarray, "samples examples"]
"""Samples of the examples, each a row of their numbers."""
Counts = Float[np.ndarray, "samples ids"]
Found = Float[np.ndarray, " samples"]
Statistic = Callable[[Samples], Found]
"""From samples of the examples to what is measured of each sample."""


def bootstrap(statistic: Statistic, num_examples: int, *, seed: int) -> Bootstrap:
    """A statistic of all examples and of resamples of them.

    Args:
        statistic: What is measured.
        num_examples: How many there are; at least one.
        seed: Decides the 2,000 resamples.

    References:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    assert num_examples > 0
    generator = np.random.default_rng(seed)
    at_once = max(1, INDICES_AT_ONCE // num_examples)
    resampled = []
    for start in range(0, NUM_RESAMPLES, at_once):
        shape = (min(at_once, NUM_RESAMPLES - start), num_examples)
        resampled.append(statistic(generator.integers(0, num_examples, shape)))
    whole = statistic(np.arange(num_examples)[None])
    return Bootstrap(float(whole[0]), np.concatenate(resampled))


def one_by_one(statistic: Callable[[Int[np.ndarray, " examples"]], float]) -> Statistic:
    """A statistic of one sample at a time, for those that do not vectorise."""
    return lambda samples: np.array([statistic(chosen) for chosen in samples], float)


def totals(
    samples: Samples,
    ids: Int[np.ndarray, " examples"],
    num_ids: int,
    values: Float[np.ndarray, " examples"] | None = None,
) -> Counts:
    """How often each id occurs in each sample, or what the examples' values there sum to.

    Args:
        samples: Numbers of examples.
        ids: Of each example, below `num_ids`.
        num_ids: How many there are.
        values: Of each example; None counts.
    """
    places = ids[samples] + num_ids * np.arange(len(samples))[:, None]
    weights = None if values is None else values[samples].ravel()
    found = np.bincount(places.ravel(), weights, num_ids * len(samples))
    return found.reshape(len(samples), num_ids).astype(float)


def ranked(values: Float[np.ndarray, " examples"]) -> tuple[Int[np.ndarray, " examples"], int]:
    """The place of each value among the different ones, from the least, and how many those are."""
    different, places = np.unique(values, return_inverse=True)
    return places, len(different)


def bootstrap_mean(values: ArrayLike, *, seed: int) -> Bootstrap:
    """A mean over examples.

    Where all values are equal (all right, or a single example) the interval has no width.

    Args:
        values: One number per example; at least one.
        seed: Decides the 2,000 resamples.
    """
    return bootstrap_ratio(values, np.ones(len(np.asarray(values))), seed=seed)


def bootstrap_ratio(numerators: ArrayLike, denominators: ArrayLike, *, seed: int) -> Bootstrap:
    """sum(numerators) / sum(denominators) over examples.

    For means per token, where examples differ in length: resampling keeps each example's loss and
    length together.

    Args:
        numerators: One number per example; at least one.
        denominators: One number per example, none negative and not all 0. A resample in which all
            are 0 is NaN.
        seed: Decides the 2,000 resamples.

    Example:
        >>> bootstrap_ratio([1.0, 2.0], [1.0, 4.0], seed=0).value
        0.6
    """
    tops, bottoms = np.asarray(numerators, float), np.asarray(denominators, float)
    assert len(tops) == len(bottoms)
    assert (bottoms >= 0).all()
    assert bottoms.sum() > 0

    def ratio(chosen: Samples) -> Found:
        below = bottoms[chosen].sum(1)
        return tops[chosen].sum(1) / np.where(below > 0, below, math.nan)

    return bootstrap(ratio, len(tops), seed=seed)


def _percentiles(resampled: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    numbers = resampled[~np.isnan(resampled)]
    if not len(numbers):
        return math.nan, math.nan
    low, high = np.quantile(numbers, [tail, 1 - tail])
    return float(low), float(high)


def t_interval(values: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """Student's t-interval of a mean over few independent runs.

    Args:
        values: One number per run; at least two.
        confidence: Share of such intervals that hold the true mean.
    """
    runs: Float[np.ndarray, " runs"] = np.asarray(values, float)
    assert len(runs) > 1, "one run says nothing about others"
    mean = float(runs.mean())
    error = float(runs.std(ddof=1)) / math.sqrt(len(runs))
    half = t_quantile(confidence, len(runs) - 1) * error
    return Interval(mean, mean - half, mean + half)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, confidence: float = CONFIDENCE
) -> PairedDifference:
    """Compares two methods run by run: entry i of both has the same seed.

    Args:
        first: One number per run; at least two.
        second: As many, paired with `first`.
        confidence: Of the t-interval of the mean difference.
    """
    assert len(first) == len(second)
    differences = np.asarray(first, float) - np.asarray(second, float)
    is_same_sign = bool((differences > 0).all() or (differences < 0).all())
    return PairedDifference(
        t_interval(differences, confidence=confidence), is_same_sign, len(differences)
    )


def t_quantile(confidence: float, degrees: int) -> float:
    """The t with P(|T| <= t) = confidence, for whole degrees of freedom.

    Example:
        >>> round(t_quantile(0.95, 4), 3)
        2.776
    """
    assert 0 < confidence < 1
    assert degrees > 0
    # In the angle, t = sqrt(degrees) tan(angle), the probability grows smoothly on [0, pi/2].
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if _probability_within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _probability_within(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan(angle)), a finite sum.

    References:
        Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term = cosine if is_odd else 1.0
    total = 0.0
    for power in range(1 if is_odd else 0, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
