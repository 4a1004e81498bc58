"""What is kept of a teacher's distributions, in memory. Imports no torch.

Shapes: P positions of one row, one for each token that is predicted, in their order; K tokens kept.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32


@dataclass(frozen=True)
class TopKPositions:
    """The likeliest tokens at each position, and the mass of all others.

    Log-probabilities in nats. Those of tokens and tail are at the capture's temperature.
    """

    token_ids: Int32[np.ndarray, "p k"]
    """Different tokens at each position, in any order."""
    log_probs: Float32[np.ndarray, "p k"]
    tail_log_prob: Float32[np.ndarray, " p"]
    """Of all other tokens together; -inf where K is the whole vocabulary."""
    label_log_prob: Float32[np.ndarray, " p"]
    """Of the token that is predicted, at temperature 1."""


@dataclass(frozen=True)
class SampledPositions:
    """Tokens drawn from the teacher, with replacement, at the capture's temperature.

    K is the most different tokens that any position has.
    """

    token_ids: Int32[np.ndarray, "p k"]
    """Different tokens at each position, in any order; where the count is 0 anything."""
    counts: Int32[np.ndarray, "p k"]
    """How often each was drawn; 0 is padding. They add up to the number of draws."""
    entropy: Float32[np.ndarray, " p"]
    """Of the teacher's whole distribution, in nats."""
    label_log_prob: Float32[np.ndarray, " p"]
    """As in `TopKPositions`."""


Positions = TopKPositions | SampledPositions
