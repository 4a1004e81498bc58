"""How well a number tells examples in distribution from those out of it, over many resamples at once.

High numbers are to mean: in distribution. Equal numbers are one step of every curve, so no metric depends
on the order of the examples. A sample without examples of both kinds has nothing to measure: NaN.

References:
    Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution
    Examples in Neural Networks", https://arxiv.org/abs/1610.02136.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from llmkd.evaluation.statistics import Counts, Found, Samples, ranked, totals


@dataclass(frozen=True)
class Detection:
    """How many examples of either kind have each number, from the highest down."""

    num_in: Counts
    num_out: Counts

    @property
    def auroc(self) -> Found:
        """How likely an example in distribution has the higher number; of equal ones, half."""
        above = self.num_in.cumsum(1) - self.num_in / 2
        return _share((above * self.num_out).sum(1), self._num_pairs)

    @property
    def aupr_in(self) -> Found:
        """Area under precision and recall of finding what is in distribution, in steps of recall."""
        return np.where(self._num_pairs > 0, _average_precision(self.num_in, self.num_out), np.nan)

    @property
    def aupr_out(self) -> Found:
        """The same of finding what is out of distribution, by low numbers."""
        found = _average_precision(self.num_out[:, ::-1], self.num_in[:, ::-1])
        return np.where(self._num_pairs > 0, found, np.nan)

    @property
    def fpr_at_95_recall(self) -> Found:
        """Share of what is out of distribution that is let in where 95 % of what is in are: the least."""
        let_in, taken_in = self.num_in.cumsum(1), self.num_out.cumsum(1)
        # In whole numbers, as 0.95 has no exact float.
        is_enough = 20 * let_in >= 19 * let_in[:, -1:]
        first = is_enough.argmax(1)[:, None]
        taken = np.take_along_axis(taken_in, first, 1)[:, 0]
        return _share(taken * let_in[:, -1], self._num_pairs)

    @property
    def _num_pairs(self) -> Found:
        return self.num_in.sum(1) * self.num_out.sum(1)


def detection(
    confidences: Float[np.ndarray, " examples"],
    is_in: Bool[np.ndarray, " examples"],
    samples: Samples,
) -> Detection:
    """The counts of each sample of the examples."""
    places, num_places = ranked(-confidences)
    kinds = (is_in.astype(float), (~is_in).astype(float))
    return Detection(*(totals(samples, places, num_places, kind) for kind in kinds))


def _average_precision(positives: Counts, negatives: Counts) -> Found:
    """Sum over the steps of (their share of the positives) x (precision up to there)."""
    found = positives.cumsum(1)
    precision = found / np.maximum(found + negatives.cumsum(1), 1)
    return (positives * precision).sum(1) / np.maximum(found[:, -1], 1)


def _share(part: Found, whole: Found) -> Found:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
