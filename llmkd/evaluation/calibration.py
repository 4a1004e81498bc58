"""How far a classifier's probabilities can be trusted, over many resamples at once."""

import numpy as np
from jaxtyping import Float

from llmkd.evaluation.reliability import NUM_BINS, bins_of
from llmkd.evaluation.scored_labels import ScoredLabels
from llmkd.evaluation.statistics import Found, Samples, ranked, totals


def brier_scores(scored: ScoredLabels) -> Float[np.ndarray, " examples"]:
    """The squared distance of each example's probabilities from its label: 0 (sure and right) to 2.

        sum_k (p_k - [k is the label])^2

    Brier's own form, over all labels; of two labels it is twice the square of one label's distance.

    References:
        Brier 1950, "Verification of Forecasts Expressed in Terms of Probability",
        https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    distances = scored.probabilities.copy()
    distances[np.arange(len(distances)), scored.label_ids] -= 1
    return (distances**2).sum(1)


def expected_calibration_error(scored: ScoredLabels, samples: Samples) -> Found:
    """ECE: how far confidence and accuracy lie apart, over 15 bins of equal width, 0 to 1.

        sum_b n_b / n |acc_b - conf_b|  =  1 / n sum_b |sum over b of ([right] - confidence)|

    References:
        Guo et al. 2017, "On Calibration of Modern Neural Networks",
        https://arxiv.org/abs/1706.04599, equation 3, with 15 bins as there.
    """
    distances = scored.is_right - scored.confidences
    summed = totals(samples, bins_of(scored.confidences), NUM_BINS, distances)
    return np.abs(summed).sum(1) / samples.shape[1]


def area_under_risk_coverage(scored: ScoredLabels, samples: Samples) -> Found:
    """AURC: the error rate among the surest i examples, averaged over i = 1 to n, 0 to 1.

    What a classifier gets wrong if it may leave out what it is least sure of: lower is better. Sure is
    who has a high favourite's probability. Examples that are equally sure come in random order, whose
    mean it is.

    References:
        Geifman et al. 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers",
        https://arxiv.org/abs/1805.08206.
    """
    places, num_places = ranked(-scored.confidences)
    counts = totals(samples, places, num_places)
    errors = totals(samples, places, num_places, (~scored.is_right).astype(float))
    before, errors_before = counts.cumsum(1) - counts, errors.cumsum(1) - errors
    # Of c equally sure examples with e errors after n with m, the j-th has (m + j e / c) / (n + j).
    rate = errors / np.maximum(counts, 1)
    harmonic = np.concatenate([[0], (1 / np.arange(1, samples.shape[1] + 1)).cumsum()])
    ends, begins = (harmonic[found.astype(int)] for found in (before + counts, before))
    areas = rate * counts + (errors_before - rate * before) * (ends - begins)
    return areas.sum(1) / samples.shape[1]
