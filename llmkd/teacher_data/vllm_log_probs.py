"""vLLM's log-probabilities as `TopKPositions`.

At each position vLLM gives the token that is there, sampled or of the prompt, and the K likeliest,
of which it may be one. Imports no torch and no vLLM.

Shapes: P positions; K1 the token that is there, followed by the K likeliest.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from llmkd.errors import InputError
from llmkd.teacher_data.captured import TopKPositions

MINUS_INFINITY = -9999.0
"""What vLLM's server writes for minus infinity, which JSON lacks."""


def positions_of_rows(
    token_ids: Int[np.ndarray, "p k1"], log_probs: Float[np.ndarray, "p k1"], vocab_size: int
) -> TopKPositions:
    """What is kept of the rows that vLLM makes.

    Args:
        token_ids: Of each position the token that is there, then the likeliest.
        log_probs: Theirs, in nats, at temperature 1.
        vocab_size: Tokens that the model tells apart; K is at most as many.

    Raises:
        InputError: These are no log-probabilities.
    """
    kept = log_probs[:, 1:].astype(np.float64)
    label = log_probs[:, 0].astype(np.float64)
    is_in_tail = ~(token_ids[:, 1:] == token_ids[:, :1]).any(axis=1)
    tail = _tail_log_prob(kept, np.where(is_in_tail, label, -np.inf), vocab_size)
    return TopKPositions(
        token_ids=token_ids[:, 1:].astype(np.int32),
        log_probs=kept.astype(np.float32),
        tail_log_prob=tail.astype(np.float32),
        label_log_prob=label.astype(np.float32),
    )


def _tail_log_prob(
    kept: Float[np.ndarray, "p k"], least: Float[np.ndarray, " p"], vocab_size: int
) -> Float[np.ndarray, " p"]:
    """log(1 - sum of what is kept), as far as rounding leaves it, else what is known of it.

    A sum of float32 probabilities is good to 1e-7 or so. The tail has no less than the one token
    that is known to be in it, and no more than if all of its tokens were as likely as the least
    likely one that is kept.
    """
    num_others = vocab_size - kept.shape[1]
    if num_others == 0 or not kept.size:
        return np.full(len(kept), -np.inf)
    total = np.exp(kept).sum(axis=1)
    _check_adds_up(total)
    with np.errstate(divide="ignore"):
        tail = np.log1p(-np.minimum(total, 1.0))
    most = kept.min(axis=1) + np.log(num_others)
    return np.maximum(least, np.minimum(tail, most))


def _check_adds_up(total: Float[np.ndarray, " p"]) -> None:
    if total.max() > 1.01:
        raise InputError(
            "engine: what vLLM gives are no log-probabilities: the probabilities of the likeliest "
            f"tokens add up to {total.max():.4g}; start it with --logprobs-mode raw_logprobs"
        )


def rows_of_mappings(
    labels: Sequence[int], mappings: Sequence[Mapping[int, float]], top_k: int
) -> tuple[Int[np.ndarray, "p k1"], Float[np.ndarray, "p k1"]]:
    """The rows of log-probabilities that came as a mapping for each position.

    Args:
        labels: The token that is there.
        mappings: From token ids to log-probabilities: the K likeliest, and the token that is there.
        top_k: K.
    """
    token_ids = np.zeros((len(labels), top_k + 1), np.int64)
    log_probs = np.zeros((len(labels), top_k + 1))
    for row, (label, mapping) in enumerate(zip(labels, mappings, strict=True)):
        is_extra = len(mapping) > top_k
        likeliest = [token for token in mapping if not (is_extra and token == label)]
        token_ids[row] = [label, *likeliest]
        log_probs[row] = [mapping[token] for token in token_ids[row].tolist()]
    log_probs[log_probs <= MINUS_INFINITY] = -np.inf
    return token_ids, log_probs


def of_spans(spans: Sequence[int]) -> list[int]:
    """The places that `[start, end, start, end, ...]` cover, in order."""
    edges = zip(spans[::2], spans[1::2], strict=True)
    return [place for start, end in edges for place in range(start, end)]
