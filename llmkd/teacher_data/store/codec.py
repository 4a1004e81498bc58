"""One row's positions as bytes, and back. Imports no torch.

At each position the tokens are put in the order of their ids, and the gaps between these are kept:
small numbers, which compress; first all positions' first gaps, then all second ones, and so on, as the
later ones are larger. The arrays of a blob:

    top k, quantised   gaps, log-probabilities and log-odds of the tail in steps, label
    top k, float32     gaps, log-probabilities, tail, label
    sampled            how many tokens each position has, gaps, counts - 1, entropy, label
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int32, Shaped

from llmkd.teacher_data.captured import Positions, SampledPositions, TopKPositions
from llmkd.teacher_data.store.blob import Blob, join
from llmkd.teacher_data.store.quantise import from_steps, to_steps

_QUANTISED, _FLOAT32, _SAMPLED = 1, 2, 3
_AFTER_ALL = np.int32(2**31 - 1)


def encode(positions: Positions, *, precision: Literal["quantised", "float32"]) -> bytes:
    """One row's positions, any number of them.

    Args:
        positions: Tokens in any order.
        precision: Of top-k log-probabilities. `quantised`: the differences between a position's
            tokens in steps of 1/8 nat, the tail's log-odds in steps of 1/256 nat, the label's
            log-probability in float16. `float32`: everything exactly. Of random samples tokens and
            counts are exact, padding is kept no wider than needed, entropy and label in float16.

    Raises:
        ValueError: Log-probabilities to be quantised that no distribution has.
    """
    match positions:
        case TopKPositions() if precision == "quantised":
            return _encode_quantised(positions)
        case TopKPositions():
            return _encode_float32(positions)
        case SampledPositions():
            return _encode_sampled(positions)


def decode(content: bytes | memoryview) -> Positions:
    """The positions of `encode`, with the tokens of each in ascending order.

    Quantised log-probabilities are normalised: tokens and tail sum to 1. Encoding what was decoded
    gives the same bytes. Not every change of a blob is found here; whoever stores it keeps a checksum.

    Raises:
        ValueError: A kind or version that is not known, or lengths that do not fit together.
    """
    blob = Blob(content)
    decoders = {_QUANTISED: _decode_quantised, _FLOAT32: _decode_float32, _SAMPLED: _decode_sampled}
    if blob.kind not in decoders:
        raise ValueError(f"a blob of kind {blob.kind}, which is not known")
    positions = decoders[blob.kind](blob)
    blob.close()
    return positions


def _encode_quantised(top: TopKPositions) -> bytes:
    ids, log_probs = _by_id(top.token_ids, top.log_probs)
    steps, tail = to_steps(log_probs, top.tail_log_prob)
    arrays = [_gaps(_strides(ids)), steps, tail, _half(top.label_log_prob)]
    return join(_QUANTISED, ids.shape, arrays)


def _decode_quantised(blob: Blob) -> TopKPositions:
    p, k = blob.num_positions, blob.k
    gaps, steps = blob.take(np.int32, k, p), blob.take(np.uint16, p, k)
    tail, label = blob.take(np.int16, p), blob.take(np.float16, p)
    return TopKPositions(_ids(gaps + 1), *from_steps(steps, tail), label.astype(np.float32))


def _encode_float32(top: TopKPositions) -> bytes:
    ids, log_probs = _by_id(top.token_ids, top.log_probs)
    arrays = [_gaps(_strides(ids)), log_probs, top.tail_log_prob, top.label_log_prob]
    return join(_FLOAT32, ids.shape, arrays)


def _decode_float32(blob: Blob) -> TopKPositions:
    p, k = blob.num_positions, blob.k
    gaps, log_probs = blob.take(np.int32, k, p), blob.take(np.float32, p, k)
    tail, label = blob.take(np.float32, p), blob.take(np.float32, p)
    return TopKPositions(_ids(gaps + 1), log_probs, tail, label)


def _encode_sampled(drawn: SampledPositions) -> bytes:
    ids, counts = _by_id(np.where(drawn.counts > 0, drawn.token_ids, _AFTER_ALL), drawn.counts)
    strides, counts = _strides(ids), counts.T
    is_drawn = counts > 0
    num_tokens = is_drawn.sum(0, dtype=np.uint32)
    numbers = num_tokens, _gaps(strides[is_drawn]), counts[is_drawn] - 1
    arrays = [*numbers, _half(drawn.entropy), _half(drawn.label_log_prob)]
    return join(_SAMPLED, (len(ids), int(num_tokens.max(initial=0))), arrays)


def _decode_sampled(blob: Blob) -> SampledPositions:
    p, k = blob.num_positions, blob.k
    num_tokens = blob.take(np.uint32, p)
    if num_tokens.max(initial=0) != k:
        raise ValueError(f"a blob of {k} tokens at most, with {num_tokens.max(initial=0)}")
    is_drawn = np.arange(k)[:, None] < num_tokens
    total = int(num_tokens.sum(dtype=np.int64))
    strides, counts = (_padded(blob.take(np.int32, total) + 1, is_drawn) for _ in range(2))
    entropy, label = (blob.take(np.float16, p).astype(np.float32) for _ in range(2))
    return SampledPositions(_ids(strides), np.ascontiguousarray(counts.T), entropy, label)


def _by_id(
    ids: Int32[np.ndarray, "p k"], values: Shaped[np.ndarray, "p k"]
) -> tuple[Int32[np.ndarray, "p k"], Shaped[np.ndarray, "p k"]]:
    order = ids.argsort(1)
    return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)


def _strides(ids: Int32[np.ndarray, "p k"]) -> Int32[np.ndarray, "k p"]:
    # From one id to the next, and from -1 to the first.
    return np.diff(ids.T, axis=0, prepend=np.int32(-1))


def _gaps(strides: Int32[np.ndarray, "*any"]) -> Int32[np.ndarray, "*any"]:
    assert (strides > 0).all(), "a negative id, or one that comes twice at a position"
    return strides - 1


def _ids(strides: Int32[np.ndarray, "k p"]) -> Int32[np.ndarray, "p k"]:
    # A stride of 0 is padding, whose id is some token's all the same.
    return np.ascontiguousarray(np.maximum(strides.cumsum(0, dtype=np.int32) - 1, 0).T)


def _padded(
    values: Int32[np.ndarray, " n"], is_drawn: Bool[np.ndarray, "k p"]
) -> Int32[np.ndarray, "k p"]:
    padded = np.zeros(is_drawn.shape, np.int32)
    padded[is_drawn] = values
    return padded


def _half(values: Float32[np.ndarray, " p"]) -> Float16[np.ndarray, " p"]:
    with np.errstate(over="ignore"):  # What is below -65504 becomes -inf.
        return values.astype(np.float16)
