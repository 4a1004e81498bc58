"""Log-probabilities of k tokens and a tail in whole numbers, and back as a distribution.

    log p_i = STEP * n_i + c        c: whatever makes the k tokens' mass what the tail leaves

so that of the tokens only the differences are kept, in steps, and the log-odds of the tail finely.
A rounded log-probability is off by e, nearly uniform within half a step, and the k + 1 outcomes'
divergence from the exact ones is half the variance of e under p: at most STEP^2 / 24 in expectation,
6.5e-4 nats.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int16, UInt16

STEP = 1 / 8
"""Nats between neighbouring log-probabilities."""
FLOOR = 1000.0
"""Nats below a position's likeliest token at which all others are kept, unless ruled out (-inf)."""
ODDS_STEP = 1 / 256
_INFINITE_ODDS = 2**15 - 1


def to_steps(
    log_probs: Float32[np.ndarray, "p k"], tail_log_prob: Float32[np.ndarray, " p"]
) -> tuple[UInt16[np.ndarray, "p k"], Int16[np.ndarray, " p"]]:
    """What is kept of the tokens and of the tail.

    Returns:
        1 + the steps by which a token is above its position's least likely one, 0 where it is -inf; the
        tail's log-odds in steps of `ODDS_STEP`, +-`_INFINITE_ODDS` where they are infinite.

    Raises:
        ValueError: Log-probabilities that no distribution has.
    """
    with np.errstate(invalid="ignore"):
        odds = tail_log_prob - _log_sum_exp(log_probs)
    if np.isnan(odds).any():
        raise ValueError("log-probabilities of a position that are NaN, infinite, or all -inf")
    finite = np.rint(odds / ODDS_STEP).clip(1 - _INFINITE_ODDS, _INFINITE_ODDS - 1)
    odds = np.where(np.isinf(odds), np.sign(odds) * _INFINITE_ODDS, finite)
    return _above_lowest(log_probs), odds.astype(np.int16)


def from_steps(
    steps: UInt16[np.ndarray, "p k"], tail_steps: Int16[np.ndarray, " p"]
) -> tuple[Float32[np.ndarray, "p k"], Float32[np.ndarray, " p"]]:
    """Log-probabilities of the tokens and of the tail, which sum to 1."""
    odds = tail_steps * ODDS_STEP
    odds[np.abs(tail_steps) == _INFINITE_ODDS] *= np.inf
    # Below the highest: exact, and near 0 where the mass is.
    log_probs = (steps - steps.max(1, initial=0, keepdims=True).astype(np.float32)) * np.float32(
        STEP
    )
    log_probs[steps == 0] = -np.inf
    with np.errstate(divide="ignore"):
        of_tokens = np.log(np.exp(log_probs).sum(1, dtype=np.float64))
    of_tokens[of_tokens == -np.inf] = 0  # No token is possible, and -inf less -inf is NaN.
    missing = -np.logaddexp(0, odds) - of_tokens
    log_probs += missing.astype(np.float32)[:, None]
    return log_probs, -np.logaddexp(0, -odds).astype(np.float32)


def _above_lowest(log_probs: Float32[np.ndarray, "p k"]) -> UInt16[np.ndarray, "p k"]:
    is_possible = log_probs > -np.inf
    kept = np.maximum(log_probs, log_probs.max(1, initial=-np.inf, keepdims=True) - FLOOR)
    lowest = kept.min(1, initial=np.inf, keepdims=True, where=is_possible)
    above = np.subtract(kept, lowest, where=is_possible, out=np.zeros_like(kept))
    return np.where(is_possible, np.rint(above / STEP) + 1, 0).astype(np.uint16)


def _log_sum_exp(log_probs: Float32[np.ndarray, "p k"]) -> Float64[np.ndarray, " p"]:
    highest = np.maximum(log_probs.max(1, initial=-np.inf, keepdims=True), np.float32(-1e30))
    with np.errstate(divide="ignore"):
        return np.log(np.exp(log_probs - highest).sum(1, dtype=np.float64)) + highest[:, 0]
