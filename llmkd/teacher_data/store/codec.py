"""A row's positions as bytes, and back, any number of rows at once. Imports no torch.

At each position the tokens are put in the order of their ids, and the gaps between these are kept:
small numbers, which compress; first all positions' first gaps, then all second ones, and so on, as the
later ones are larger. The arrays of a blob:

    top k, quantised   gaps, log-probabilities and log-odds of the tail in steps, label
    top k, float32     gaps, log-probabilities, tail, label
    sampled            how many tokens each position has, gaps, counts - 1, entropy, label
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int, Int32, Shaped

from llmkd.teacher_data.captured import Positions, SampledPositions, TopKPositions
from llmkd.teacher_data.store.blob import Blobs, join
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


def decode(*contents: bytes | memoryview) -> Positions:
    """The positions of one row or more, one row's after the other's.

    The tokens of each position are in ascending order. Quantised log-probabilities are normalised:
    tokens and tail sum to 1. Encoding what was decoded of one row gives the same bytes. Not every
    change of a blob is found here; whoever stores it keeps a checksum.

    Args:
        *contents: What `encode` made: of one kind all, and of one k unless they are samples.

    Raises:
        ValueError: A kind or version that is not known, or lengths that do not fit together.
    """
    blobs = Blobs(contents)
    decoders = {_QUANTISED: _decode_quantised, _FLOAT32: _decode_float32, _SAMPLED: _decode_sampled}
    if blobs.kind not in decoders:
        raise ValueError(f"a blob of kind {blobs.kind}, which is not known")
    positions = decoders[blobs.kind](blobs)
    blobs.close()
    return positions


def _encode_quantised(top: TopKPositions) -> bytes:
    ids, log_probs = _by_id(top.token_ids, top.log_probs)
    steps, tail = to_steps(log_probs, top.tail_log_prob)
    arrays = [_gaps(_strides(ids)), steps, tail, _half(top.label_log_prob)]
    return join(_QUANTISED, ids.shape, arrays)


def _decode_quantised(blobs: Blobs) -> TopKPositions:
    ids, steps = _ids(_strides_of(blobs)), blobs.take(np.uint16, blobs.shapes)
    tail, label = (_of_positions(blobs, dtype) for dtype in (np.int16, np.float16))
    return TopKPositions(ids, *from_steps(steps, tail), label.astype(np.float32))


def _encode_float32(top: TopKPositions) -> bytes:
    ids, log_probs = _by_id(top.token_ids, top.log_probs)
    arrays = [_gaps(_strides(ids)), log_probs, top.tail_log_prob, top.label_log_prob]
    return join(_FLOAT32, ids.shape, arrays)


def _decode_float32(blobs: Blobs) -> TopKPositions:
    ids, log_probs = _ids(_strides_of(blobs)), blobs.take(np.float32, blobs.shapes)
    tail, label = (_of_positions(blobs, np.float32) for _ in range(2))
    return TopKPositions(ids, log_probs, tail, label)


def _encode_sampled(drawn: SampledPositions) -> bytes:
    ids, counts = _by_id(np.where(drawn.counts > 0, drawn.token_ids, _AFTER_ALL), drawn.counts)
    strides, counts = _strides(ids), counts.T
    is_drawn = counts > 0
    num_tokens = is_drawn.sum(0, dtype=np.uint32)
    numbers = num_tokens, _gaps(strides[is_drawn]), counts[is_drawn] - 1
    arrays = [*numbers, _half(drawn.entropy), _half(drawn.label_log_prob)]
    return join(_SAMPLED, (len(ids), int(num_tokens.max(initial=0))), arrays)


def _decode_sampled(blobs: Blobs) -> SampledPositions:
    num_tokens = _of_positions(blobs, np.uint32)
    starts = np.cumsum([p for p, _ in blobs.shapes])[:-1]
    of_rows = np.split(num_tokens, starts)
    for of_row, (_, k) in zip(of_rows, blobs.shapes, strict=True):
        if of_row.max(initial=0) != k:
            raise ValueError(f"a blob of {k} tokens at most, with {of_row.max(initial=0)}")
    is_drawn = np.arange(num_tokens.max(initial=0))[:, None] < num_tokens
    totals = [int(of_row.sum(dtype=np.int64)) for of_row in of_rows]
    strides, counts = (
        _padded(blobs.take(np.int32, [(n,) for n in totals]) + 1, totals, is_drawn, starts)
        for _ in range(2)
    )
    entropy, label = (_of_positions(blobs, np.float16).astype(np.float32) for _ in range(2))
    return SampledPositions(_ids(strides), np.ascontiguousarray(counts.T), entropy, label)


def _strides_of(blobs: Blobs) -> Int32[np.ndarray, "k p"]:
    return blobs.take(np.int32, [(k, p) for p, k in blobs.shapes], axis=1) + 1


def _of_positions(blobs: Blobs, dtype: type[np.generic]) -> Shaped[np.ndarray, " p"]:
    return blobs.take(dtype, [(p,) for p, _ in blobs.shapes])


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
    """The ids, whose strides are used up."""
    # Row by row, as numpy's own sum along the first axis takes three times as long.
    for before, after in pairwise(strides):
        after += before
    strides -= 1
    # A stride of 0 is padding, whose id is some token's all the same.
    return np.ascontiguousarray(np.maximum(strides, 0, out=strides).T)


def _padded(
    values: Int32[np.ndarray, " n"],
    totals: Sequence[int],
    is_drawn: Bool[np.ndarray, "k p"],
    starts: Int[np.ndarray, " rows_but_one"],
) -> Int32[np.ndarray, "k p"]:
    """Each row's values, of which there are its total, where the row has drawn tokens."""
    padded = np.zeros(is_drawn.shape, np.int32)
    places = np.split(padded, starts, 1), np.split(is_drawn, starts, 1)
    parts = np.split(values, np.cumsum(totals[:-1]))
    for place, is_there, part in zip(*places, parts, strict=True):
        place[is_there] = part
    return padded


def _half(values: Float32[np.ndarray, " p"]) -> Float16[np.ndarray, " p"]:
    with np.errstate(over="ignore"):  # What is below -65504 becomes -inf.
        return values.astype(np.float16)
