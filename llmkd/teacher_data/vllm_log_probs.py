"""vLLM's log-probabilities as `TopKPositions`.

At each position vLLM gives the token that is there, sampled or of the prompt, and the likeliest that
it was asked for, of which it may be one. Among them may be rows that only pad the head: they stand for
no token, so they are left out, and what they have of the mass with them. Imports no torch and no vLLM.

Shapes: P positions; A likeliest; A1 the token that is there, followed by the A likeliest; K kept.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from llmkd.errors import InputError
from llmkd.teacher_data.captured import TopKPositions

MINUS_INFINITY = -9999.0
"""What vLLM's server writes for minus infinity, which JSON lacks."""


def positions_of_rows(
    token_ids: Int[np.ndarray, "p a1"],
    log_probs: Float[np.ndarray, "p a1"],
    vocab_size: int,
    top_k: int,
) -> TopKPositions:
    """What is kept of the rows that vLLM makes.

    The mass of padded rows that are not among the likeliest is not known: it counts as the tail's.

    Args:
        token_ids: Of each position the token that is there, then the likeliest.
        log_probs: Theirs, in nats, at temperature 1, over all rows of the head.
        vocab_size: Tokens of the tokenizer; greater ids only pad the head.
        top_k: K, at most `vocab_size`.

    Raises:
        InputError: These are no log-probabilities, or fewer than K of them are tokens'.
    """
    log_probs = log_probs.astype(np.float64)
    _check_adds_up(np.exp(log_probs[:, 1:]).sum(axis=1))
    log_probs = _over_tokens(log_probs, token_ids >= vocab_size)
    chosen = _likeliest_tokens(token_ids[:, 1:], log_probs[:, 1:], vocab_size, top_k)
    kept_ids = np.take_along_axis(token_ids[:, 1:], chosen, axis=1)
    kept, label = np.take_along_axis(log_probs[:, 1:], chosen, axis=1), log_probs[:, 0]
    is_in_tail = ~(kept_ids == token_ids[:, :1]).any(axis=1)
    tail = _tail_log_prob(kept, np.where(is_in_tail, label, -np.inf), vocab_size)
    return TopKPositions(
        token_ids=kept_ids.astype(np.int32),
        log_probs=kept.astype(np.float32),
        tail_log_prob=tail.astype(np.float32),
        label_log_prob=label.astype(np.float32),
    )


def _over_tokens(
    log_probs: Float[np.ndarray, "p a1"], is_padded: Bool[np.ndarray, "p a1"]
) -> Float[np.ndarray, "p a1"]:
    """log(p / (1 - sum of the padded rows' p)), where there are any."""
    dropped = np.where(is_padded, np.exp(log_probs), 0.0).sum(axis=1)
    with np.errstate(divide="ignore"):
        left = np.log1p(-np.minimum(dropped, 1.0))
    # Where they have nearly all mass, rounding hides the rest: it is no less than what is seen of it.
    seen = np.where(is_padded, -np.inf, log_probs)
    least = np.maximum(np.logaddexp.reduce(seen[:, 1:], axis=1), seen[:, 0])
    return log_probs - np.where(dropped > 0, np.maximum(left, least), 0.0)[:, None]


def _likeliest_tokens(
    token_ids: Int[np.ndarray, "p a"],
    log_probs: Float[np.ndarray, "p a"],
    vocab_size: int,
    top_k: int,
) -> Int[np.ndarray, "p k"]:
    """Where the K likeliest stand that are tokens."""
    is_padded = token_ids >= vocab_size
    most = int(is_padded.sum(axis=1).max(initial=0))
    if most > token_ids.shape[1] - top_k:
        raise InputError(
            f"engine: {most} of the {token_ids.shape[1]} likeliest rows of the teacher's head stand "
            f"for no token of its tokenizer, so that {top_k} cannot be kept; write "
            "engine: {kind: transformers}, or a smaller capture.top_k"
        )
    return np.lexsort((-log_probs, is_padded), axis=1)[:, :top_k]


def _tail_log_prob(
    kept: Float[np.ndarray, "p k"], least: Float[np.ndarray, " p"], vocab_size: int
) -> Float[np.ndarray, " p"]:
    """log(1 - sum of what is kept), as far as rounding leaves it, else what is known of it.

    A sum of float32 probabilities is good to 1e-7 or so. The tail has no less than the one token
    that is known to be in it, and no more than if all of its tokens were as likely as the least
    likely one that is kept.
    """
    num_others = vocab_size - kept.shape[1]
    total = np.exp(kept).sum(axis=1)
    if num_others == 0:
        return np.full(len(kept), -np.inf)
    with np.errstate(divide="ignore"):
        tail = np.log1p(-np.minimum(total, 1.0))
    most = kept.min(axis=1) + np.log(num_others)
    return np.maximum(least, np.minimum(tail, most))


def _check_adds_up(total: Float[np.ndarray, " p"]) -> None:
    most = total.max(initial=0.0)
    if most > 1.01:
        raise InputError(
            "engine: what vLLM gives are no log-probabilities: the probabilities of the likeliest "
            f"tokens add up to {most:.4g}; start it with --logprobs-mode raw_logprobs"
        )


def rows_of_mappings(
    labels: Sequence[int], mappings: Sequence[Mapping[int, float]], num_asked: int
) -> tuple[Int[np.ndarray, "p a1"], Float[np.ndarray, "p a1"]]:
    """The rows of log-probabilities that came as a mapping for each position.

    Args:
        labels: The token that is there.
        mappings: From token ids to log-probabilities: the A likeliest, and the token that is there.
        num_asked: A.
    """
    token_ids = np.zeros((len(labels), num_asked + 1), np.int64)
    log_probs = np.zeros((len(labels), num_asked + 1))
    for row, (label, mapping) in enumerate(zip(labels, mappings, strict=True)):
        is_extra = len(mapping) > num_asked
        likeliest = [token for token in mapping if not (is_extra and token == label)]
        token_ids[row] = [label, *likeliest]
        log_probs[row] = [mapping[token] for token in token_ids[row].tolist()]
    log_probs[log_probs <= MINUS_INFINITY] = -np.inf
    return token_ids, log_probs


def of_spans(spans: Sequence[int]) -> list[int]:
    """The places that `[start, end, start, end, ...]` cover, in order."""
    edges = zip(spans[::2], spans[1::2], strict=True)
    return [place for start, end in edges for place in range(start, end)]
