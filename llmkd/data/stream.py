"""Examples read while training: for data that is too large to prepare."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count, islice
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import IterableDataset

from llmkd.data.counts import DataCounts
from llmkd.data.packing import best_fit, joined
from llmkd.data.tokenize import Example

SHUFFLED_AT_ONCE = 10_000
"""Examples among which the next one is drawn."""
PACKED_AT_ONCE = 1000
"""Examples that are packed together."""

Item = TypeVar("Item")


class ExampleStream(IterableDataset):
    """Shuffled, and where asked for packed, examples without end, pass after pass.

    A trainer does not know how long a stream is, so it gets no end to see: it stops by its number of
    steps, and when it resumes, skips from the beginning of the first pass.

    Args:
        sources: Per source, what begins a new pass over its examples.
        weights: The chance with which the next example is drawn from each source. A pass ends when
            the first of them has no more.
        seed: Of the order.
        packed_length: Most tokens of a packed sequence; None packs nothing.
        counts: Counts what is read.
    """

    def __init__(
        self,
        sources: list[Callable[[], Iterator[Example]]],
        weights: list[float],
        *,
        seed: int,
        packed_length: int | None,
        counts: DataCounts,
    ):
        self.sources = sources
        self.shares = np.asarray(weights) / sum(weights)
        self.seed = seed
        self.packed_length = packed_length
        self.counts = counts

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in count():
            yield from self._one_pass(np.random.default_rng([self.seed, number]))

    def _one_pass(self, draw: np.random.Generator) -> Iterator[dict[str, Any]]:
        rows = map(asdict, _shuffled(self._counted(self._drawn(draw)), draw))
        return rows if self.packed_length is None else self._packed(rows, self.packed_length, draw)

    def _drawn(self, draw: np.random.Generator) -> Iterator[Example]:
        passes = [begin() for begin in self.sources]
        while True:
            chosen = int(draw.choice(len(passes), p=self.shares)) if len(passes) > 1 else 0
            example = next(passes[chosen], None)
            if example is None:
                return
            yield example

    def _counted(self, examples: Iterator[Example]) -> Iterator[Example]:
        for example in examples:
            length, num_trained, num_cut = example.length, example.num_trained, example.num_cut
            self.counts.add(np.array([length]), np.array([num_trained]), np.array([num_cut]))
            if self.packed_length is None:
                self.counts.num_sequences += 1
            yield example

    def _packed(
        self, rows: Iterator[dict[str, Any]], max_length: int, draw: np.random.Generator
    ) -> Iterator[dict[str, Any]]:
        while window := list(islice(rows, PACKED_AT_ONCE)):
            sequences = best_fit([row["length"] for row in window], max_length)
            self.counts.num_sequences += len(sequences)
            for index in draw.permutation(len(sequences)):
                yield joined([window[i] for i in sequences[index]])


def _shuffled(items: Iterator[Item], draw: np.random.Generator) -> Iterator[Item]:
    """Each item at random among those that were read but have not come out yet."""
    held = list(islice(items, SHUFFLED_AT_ONCE))
    for item in items:
        index = int(draw.integers(len(held)))
        yield held[index]
        held[index] = item
    yield from (held[index] for index in draw.permutation(len(held)))
