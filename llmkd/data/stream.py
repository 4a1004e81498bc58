"""Examples read while training: for data that is too large to prepare."""

from collections.abc import Callable, Iterator
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
        weights: The chance with which the next example is drawn from each source. A source among
            several that has no more begins again by itself.
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
            draw = np.random.default_rng([self.seed, number])
            rows = self._counted(_shuffled(map(_compact, self._drawn(draw)), draw))
            yield from rows if self.packed_length is None else self._packed(rows, draw)

    def _drawn(self, draw: np.random.Generator) -> Iterator[Example]:
        """One pass over a single source; of several there is no end."""
        passes = [begin() for begin in self.sources]
        while True:
            chosen = int(draw.choice(len(passes), p=self.shares)) if len(passes) > 1 else 0
            example = next(passes[chosen], None)
            if example is None:
                if len(passes) == 1:
                    return
                # Only the source that has no more begins again: the others go on where they are.
                passes[chosen] = self.sources[chosen]()
                example = next(passes[chosen])
            yield example

    def _counted(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            length, num_trained, num_cut = row["length"], row["num_trained"], row["num_cut"]
            self.counts.add(np.array([length]), np.array([num_trained]), np.array([num_cut]))
            self.counts.num_without_rationale += row.get("rationale_start") == length
            if self.packed_length is None:
                self.counts.num_sequences += 1
            yield row

    def _packed(
        self, rows: Iterator[dict[str, Any]], draw: np.random.Generator
    ) -> Iterator[dict[str, Any]]:
        assert self.packed_length is not None
        while window := list(islice(rows, PACKED_AT_ONCE)):
            sequences = best_fit([row["length"] for row in window], self.packed_length)
            self.counts.num_sequences += len(sequences)
            for index in draw.permutation(len(sequences)):
                yield joined([window[i] for i in sequences[index]])


def _compact(example: Example) -> dict[str, Any]:
    """The example in a tenth of the memory: thousands are held while they are shuffled."""
    ids = np.asarray(example.input_ids, dtype=np.int32)
    return {**vars(example), "input_ids": ids}


def _shuffled(items: Iterator[Item], draw: np.random.Generator) -> Iterator[Item]:
    """Each item at random among those that were read but have not come out yet."""
    held = list(islice(items, SHUFFLED_AT_ONCE))
    for item in items:
        index = int(draw.integers(len(held)))
        yield held[index]
        held[index] = item
    yield from (held[index] for index in draw.permutation(len(held)))
