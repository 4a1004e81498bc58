"""F1 and Matthews' correlation of labels, over many resamples at once: labels are counted.

What is undefined (0 / 0) is 0, as scikit-learn has it.
"""

from dataclasses import dataclass

import numpy as np

from llmkd.evaluation.scored_labels import ScoredLabels
from llmkd.evaluation.statistics import Counts, Found, Samples, totals


@dataclass(frozen=True)
class LabelCounts:
    """How often each label is found, asked for and given."""

    hits: Counts
    wanted: Counts
    given: Counts

    @property
    def f1(self) -> Counts:
        """2 TP / (2 TP + FP + FN) of each label."""
        return 2 * self.hits / np.maximum(self.wanted + self.given, 1)

    @property
    def macro_f1(self) -> Found:
        """The mean of `f1` over the labels that occur, among the rows' or the favourites."""
        return self.f1.sum(1) / (self.wanted + self.given > 0).sum(1)

    @property
    def micro_f1(self) -> Found:
        """`f1` of all labels' counts together: where each row has one label, the accuracy."""
        return 2 * self.hits.sum(1) / (self.wanted + self.given).sum(1)

    @property
    def mcc(self) -> Found:
        """Matthews' correlation of the rows' labels and the favourites, -1 to 1, for any number of labels.

        References:
            Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation
            coefficient", https://doi.org/10.1016/j.compbiolchem.2004.09.006.
        """
        total = self.wanted.sum(1)
        covariance = self.hits.sum(1) * total - (self.wanted * self.given).sum(1)
        spreads = [total**2 - (counts**2).sum(1) for counts in (self.wanted, self.given)]
        spread = spreads[0] * spreads[1]
        return covariance / np.sqrt(np.where(spread > 0, spread, np.inf))


def count_labels(scored: ScoredLabels, samples: Samples) -> LabelCounts:
    """The counts of each sample of the examples."""
    num_labels = scored.logits.shape[1]
    return LabelCounts(
        totals(samples, scored.label_ids, num_labels, scored.is_right.astype(float)),
        totals(samples, scored.label_ids, num_labels),
        totals(samples, scored.favourites, num_labels),
    )
