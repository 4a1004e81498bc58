"""Correlations of what a model says with what is right, over many resamples at once.

Of a sample in which either is constant, a correlation is undefined: NaN.
"""

import numpy as np
from jaxtyping import Float

from llmkd.evaluation.statistics import Found, Samples, ranked, totals

Values = Float[np.ndarray, " examples"]
Drawn = Float[np.ndarray, "samples examples"]


def pearson(found: Values, wanted: Values, samples: Samples) -> Found:
    """Pearson's correlation, -1 to 1: how nearly one is a straight line of the other.

        sum (x - mean x) (y - mean y) / sqrt(sum (x - mean x)^2 sum (y - mean y)^2)

    References:
        Pearson 1895, "Note on Regression and Inheritance in the Case of Two Parents",
        https://doi.org/10.1098/rspl.1895.0041.
    """
    return _correlation(found[samples], wanted[samples])


def spearman(found: Values, wanted: Values, samples: Samples) -> Found:
    """Spearman's rank correlation, -1 to 1: how nearly both rise together, by whatever curve.

    Pearson's correlation of the ranks in the sample; equal values share the mean of their ranks.

    References:
        Spearman 1904, "The Proof and Measurement of Association between Two Things",
        https://doi.org/10.2307/1412159.
    """
    return _correlation(_ranks(found, samples), _ranks(wanted, samples))


def _ranks(values: Values, samples: Samples) -> Drawn:
    places, num_places = ranked(values)
    counts = totals(samples, places, num_places)
    mean_ranks = counts.cumsum(1) - (counts - 1) / 2
    return np.take_along_axis(mean_ranks, places[samples], 1)


def _correlation(x: Drawn, y: Drawn) -> Found:
    # Not by a spread of 0, which rounding of the mean may miss.
    is_constant = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
    x, y = (one - one.mean(1, keepdims=True) for one in (x, y))
    spread = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return (x * y).sum(1) / np.where(is_constant, np.nan, spread)
