"""A seeded teacher without a model: distributions over large vocabularies, as language models have them.

Token frequencies are Zipf's over ranks (Mandelbrot's offset 2.7), and ids are in the order of
frequency with noise, as the merges of a BPE vocabulary are: id i has the rank of log(1 + i) + N(0, 0.5).
At a position, token v has the score

    z_v = log frequency(v) + 3 * N(0, 1)

and the log-probability log_softmax(sharpness * z) with a sharpness of its own per position,
exp(N(log 1.6, 0.4)): some positions are nearly certain, others open. The top 50 then hold about 0.87
of the mass on average, the entropy is about 2.7 nats, and 50 draws give about 16 different tokens.
Positions are independent: nothing can be gained from one for the next, as it can in text.
"""

from dataclasses import dataclass

import numpy as np
import torch

from llmkd.teacher_data.captured import SampledPositions, TopKPositions

NOISE = 3.0
SHARPNESS = 1.6
SHARPNESS_SPREAD = 0.4
ORDER_NOISE = 0.5
OFFSET = 2.7
GRID_STEP = 0.05


@dataclass(frozen=True)
class ZipfTeacher:
    """The log-frequencies of a vocabulary's ids."""

    log_frequencies: np.ndarray

    @classmethod
    def of_size(cls, vocab_size: int, seed: int = 0) -> "ZipfTeacher":
        order = np.log1p(np.arange(vocab_size))
        order += ORDER_NOISE * np.random.default_rng(seed).standard_normal(vocab_size)
        frequencies = 1 / (order.argsort().argsort() + OFFSET)
        return cls(np.log(frequencies / frequencies.sum()))

    def log_probs(self, num_positions: int, draw: np.random.Generator) -> np.ndarray:
        """[positions, vocab], float32, in nats."""
        scores = draw.standard_normal((num_positions, len(self.log_frequencies)), np.float32)
        scores = NOISE * scores + self.log_frequencies.astype(np.float32)
        spread = SHARPNESS_SPREAD * draw.standard_normal((num_positions, 1), np.float32)
        return log_softmax(SHARPNESS * np.exp(spread) * scores)

    def set_bits(self, token_ids: np.ndarray) -> np.ndarray:
        """-log2 of the probability that exactly these tokens have a position's highest scores.

        Its mean over positions is the entropy of the set, up to the error of a mean: what no coder can
        go below, even one that knows every token's frequency. Sharpness does not reorder a position.

            P(S) = integral dt  sum_{i in S} phi_i(t) prod_{j in S, j != i} (1 - Phi_j(t))
                                prod_{v not in S} Phi_v(t)

        where t is the lowest score of the set, phi and Phi the density and the distribution function
        of each token's score; by the trapezoidal rule.

        Args:
            token_ids: [positions, k], different at each position.
        """
        means = torch.from_numpy(self.log_frequencies)
        grid = torch.arange(means.min() - 3 * NOISE, means.max() + 6 * NOISE, GRID_STEP).double()
        of_all = torch.stack([_log_below(t, means).sum() for t in grid])
        bits = [self._bits(grid, of_all, means[torch.from_numpy(ids)]) for ids in token_ids]
        return np.array(bits)

    def _bits(self, grid: torch.Tensor, of_all: torch.Tensor, means: torch.Tensor) -> float:
        t = grid[:, None]
        above = torch.special.log_ndtr((means - t) / NOISE)
        density = -0.5 * ((t - means) / NOISE).square() - np.log(NOISE * np.sqrt(2 * np.pi))
        others = of_all - _log_below(t, means).sum(-1)
        log_density = (density - above).logsumexp(-1) + above.sum(-1) + others
        return -(log_density.logsumexp(0).item() + np.log(GRID_STEP)) / np.log(2)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64 inside."""
    shifted = scores - scores.max(-1, keepdims=True).astype(np.float64)
    return (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))).astype(np.float32)


def top_k_of(log_probs: np.ndarray, labels: np.ndarray, k: int) -> TopKPositions:
    """What is captured of whole distributions, [positions, vocab]."""
    ids = np.argpartition(-log_probs, k, -1)[:, :k]
    others = np.exp(log_probs, dtype=np.float64)
    np.put_along_axis(others, ids, 0, -1)
    return TopKPositions(
        token_ids=ids.astype(np.int32),
        log_probs=np.take_along_axis(log_probs, ids, -1),
        tail_log_prob=np.log(others.sum(-1)).astype(np.float32),
        label_log_prob=np.take_along_axis(log_probs, labels[:, None], -1)[:, 0],
    )


def sampled_of(
    log_probs: np.ndarray, labels: np.ndarray, num_samples: int, draw: np.random.Generator
) -> SampledPositions:
    """The same for tokens drawn with replacement."""
    drawn = [np.unique(x, return_counts=True) for x in draw_of(log_probs, num_samples, draw)]
    k = max(len(ids) for ids, _ in drawn)
    ids, counts = np.zeros((2, len(drawn), k), np.int32)
    for position, found in enumerate(drawn):
        ids[position, : len(found[0])], counts[position, : len(found[1])] = found
    entropy = -(np.exp(log_probs, dtype=np.float64) * log_probs).sum(-1).astype(np.float32)
    label = np.take_along_axis(log_probs, labels[:, None], -1)[:, 0]
    return SampledPositions(ids, counts, entropy, label)


def draw_of(log_probs: np.ndarray, num_samples: int, draw: np.random.Generator) -> np.ndarray:
    """Tokens, [positions, samples]."""
    below = np.exp(log_probs, dtype=np.float64).cumsum(-1)
    wanted = draw.random((len(below), num_samples)) * below[:, -1:]
    return np.stack([np.searchsorted(*pair) for pair in zip(below, wanted, strict=True)])


def _log_below(t: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    return torch.special.log_ndtr((t - means) / NOISE)
