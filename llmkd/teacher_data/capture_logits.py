"""From a teacher's logits to what is kept of them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from llmkd.losses.divergences import logprobs, teacher_nll
from llmkd.losses.sparse import top_k_logits
from llmkd.recipe.teacher_data import Capture, SampledCapture, TopKCapture
from llmkd.teacher_data.captured import Positions, SampledPositions, TopKPositions


def of_logits(
    logits: Float[Tensor, "n vocab"],
    target_ids: Int[Tensor, " n"],
    capture: Capture,
    uniforms: Float64[Tensor, "n draws"] | None = None,
) -> Positions:
    """What is kept of n positions.

    Args:
        logits: The teacher's, without padded tokens.
        target_ids: The tokens that are predicted.
        capture: What to keep.
        uniforms: Numbers in [0, 1) that decide what is drawn, where anything is.
    """
    if isinstance(capture, TopKCapture):
        k = min(capture.top_k, logits.shape[-1])
        top = top_k_logits(logits, target_ids, k=k, temperature=capture.temperature)
        return TopKPositions(
            _int32(top.token_ids),
            _float32(top.log_probs),
            _float32(top.tail_log_prob),
            _float32(top.label_log_prob),
        )
    assert uniforms is not None
    p = logprobs(logits, temperature=capture.temperature).exp()
    token_ids, counts = _counted(drawn(p, uniforms).cpu().numpy())
    entropy, label = -torch.xlogy(p, p).sum(-1), -teacher_nll(logits, target_ids)
    return SampledPositions(token_ids, counts, _float32(entropy), _float32(label))


def uniforms_of(capture: Capture, seeds: Sequence[int], lengths: Sequence[int]) -> Tensor | None:
    """The numbers that decide what is drawn at each position of several sequences.

    Args:
        capture: None where it draws nothing.
        seeds: Of each sequence.
        lengths: Positions of each.
    """
    if not isinstance(capture, SampledCapture):
        return None
    of_sequences = [
        np.random.default_rng(seed).random((length, capture.num_samples))
        for seed, length in zip(seeds, lengths, strict=True)
    ]
    return torch.from_numpy(np.concatenate(of_sequences))


def drawn(
    p: Float[Tensor, "n vocab"], uniforms: Float64[Tensor, "n draws"]
) -> Int[Tensor, "n draws"]:
    """Tokens, by the inverse of the distribution function."""
    mass = p.double().cumsum(-1)
    # Below the whole mass, whatever rounding made of it, so never behind the last token that has any.
    return torch.searchsorted(mass, uniforms * mass[:, -1:], right=True)


def _counted(token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different tokens and how often each comes, [n, k] each, padded by 0 times token 0."""
    token_ids = np.sort(token_ids, axis=-1)
    num_rows, num_draws = token_ids.shape
    is_first = np.ones(token_ids.shape, bool)
    is_first[:, 1:] = token_ids[:, 1:] != token_ids[:, :-1]
    places = is_first.cumsum(-1) - 1
    num_kept = int(places[:, -1].max(initial=-1)) + 1
    rows = np.repeat(np.arange(num_rows), num_draws)
    counts = np.zeros((num_rows, num_kept), np.int32)
    np.add.at(counts, (rows, places.ravel()), 1)
    kept = np.zeros((num_rows, num_kept), np.int32)
    kept[rows, places.ravel()] = token_ids.ravel()
    return kept, counts


def joined(parts: Sequence[Positions]) -> Positions:
    """The positions of several parts as one."""
    width = max(part.token_ids.shape[-1] for part in parts)
    columns = [
        {name: _widened(values, width) for name, values in vars(part).items()} for part in parts
    ]
    return type(parts[0])(
        **{name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    )


def split(positions: Positions, lengths: Sequence[int]) -> list[Positions]:
    """The positions of each sequence, from those of all of them."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    return [
        type(positions)(**{name: x[start:end] for name, x in vars(positions).items()})
        for start, end in zip(starts, ends, strict=True)
    ]


def _widened(values: np.ndarray, width: int) -> np.ndarray:
    if values.ndim == 1:
        return values
    return np.pad(values, ((0, 0), (0, width - values.shape[-1])))


def _int32(x: Tensor) -> np.ndarray:
    return x.to(torch.int32).cpu().numpy()


def _float32(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
