"""Loss per byte and per word of a text, which models of any vocabulary can be compared by."""

import math
from typing import Any

import numpy as np

from llmkd.evaluation.measured import Estimate
from llmkd.evaluation.perplexity import ScoredText
from llmkd.evaluation.statistics import bootstrap_ratio

Losses = float | np.ndarray
"""One, or an array of them, which gives an array of as many."""


def bits_per_byte(loss_per_byte: Losses) -> Any:
    """A loss in nats per byte, in bits."""
    return loss_per_byte / math.log(2)


def byte_perplexity(loss_per_byte: Losses) -> Any:
    """A loss in nats per byte, as perplexity: its exp."""
    return np.exp(loss_per_byte)


def word_perplexity(loss_per_word: Losses) -> Any:
    """A loss in nats per word, as perplexity: its exp. Words are what white space parts."""
    return np.exp(loss_per_word)


def text_units(found: ScoredText, seed: int) -> list[Estimate]:
    """The metrics per byte and word; none where what was scored is no text.

    The loss is that of all scored tokens, such as the begin-of-text tokens between joined rows; bytes
    and words are the text's alone. So a row of white space adds its loss, and no word.
    """
    count, estimates = len(found.losses), list[Estimate]()
    if found.num_bytes.sum() > 0:
        per_byte = bootstrap_ratio(found.losses, found.num_bytes, seed=seed)
        estimates += [
            Estimate("bits_per_byte", per_byte.mapped(bits_per_byte), count),
            Estimate("byte_perplexity", per_byte.mapped(byte_perplexity), count),
        ]
    if found.num_words.sum() > 0:
        per_word = bootstrap_ratio(found.losses, found.num_words, seed=seed)
        estimates.append(Estimate("word_perplexity", per_word.mapped(word_perplexity), count))
    return estimates
