"""What a classifier said of labelled examples."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class ScoredLabels:
    """Every example's label, and a classifier's logits."""

    label_ids: Int[np.ndarray, " examples"]
    logits: Float[np.ndarray, "examples labels"]

    @cached_property
    def probabilities(self) -> Float[np.ndarray, "examples labels"]:
        """The softmax of the logits."""
        powers = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    @cached_property
    def favourites(self) -> Int[np.ndarray, " examples"]:
        """The likeliest label of each example; of several, the first."""
        return self.logits.argmax(1)

    @property
    def confidences(self) -> Float[np.ndarray, " examples"]:
        """The favourite's probability."""
        return self.probabilities.max(1)

    @property
    def is_right(self) -> Bool[np.ndarray, " examples"]:
        """Whether the favourite is the label."""
        return self.label_ids == self.favourites
