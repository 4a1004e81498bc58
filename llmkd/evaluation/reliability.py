"""Does what a model holds for 70 % likely come true 70 % of the time?"""

import numpy as np
from jaxtyping import Bool, Float, Int

from llmkd.evaluation.details import Bin

NUM_BINS = 15


def bins_of(
    confidences: Float[np.ndarray, " predictions"],
) -> Int[np.ndarray, " predictions"]:
    """The bin that each probability lies in, of 15 of equal width; 1 is in the last."""
    return np.minimum((confidences * NUM_BINS).astype(np.int64), NUM_BINS - 1)


class Reliability:
    """Gathers predictions in bins of equal width on [0, 1], by the favourite's probability.

    Bin i holds probabilities from i / 15 to below (i + 1) / 15, the last one also 1. Sums are in
    float64, so how the predictions come in batches does not show. Predictions of a model that
    computes no number (NaN) are in no bin.

    References:
        Guo et al. 2017, "On Calibration of Modern Neural Networks",
        https://arxiv.org/abs/1706.04599, section 2.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(NUM_BINS, np.int64)
        self.confidences = np.zeros(NUM_BINS)
        self.num_right = np.zeros(NUM_BINS)

    def add(
        self,
        confidences: Float[np.ndarray, " predictions"],
        is_right: Bool[np.ndarray, " predictions"],
    ) -> None:
        """Adds predictions.

        Args:
            confidences: The probability of the token found most likely.
            is_right: Whether that was the token.
        """
        is_number = np.isfinite(confidences)
        found, is_right = confidences[is_number].astype(np.float64), is_right[is_number]
        places = bins_of(found)
        self.counts += np.bincount(places, minlength=NUM_BINS)
        self.confidences += np.bincount(places, found, NUM_BINS)
        self.num_right += np.bincount(places, is_right.astype(np.float64), NUM_BINS)

    def as_data(self) -> list[list[int] | list[float]]:
        """Counts, summed confidences and numbers of right ones, as plain data."""
        return [self.counts.tolist(), self.confidences.tolist(), self.num_right.tolist()]

    def add_data(self, data: list[list[int] | list[float]]) -> None:
        """Adds what `as_data` gave."""
        counts, confidences, num_right = np.array(data)
        self.counts += counts.astype(np.int64)
        self.confidences += confidences
        self.num_right += num_right

    def bins(self) -> list[Bin]:
        """The bins that hold something, from the least sure to the surest."""
        return [
            Bin(float(confidence / count), float(right / count), int(count))
            for confidence, right, count in zip(
                self.confidences, self.num_right, self.counts, strict=True
            )
            if count
        ]
