"""What became of the rows on the way to the model: the numbers in `data.json`."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class SourceCount:
    """One source's part in a mixture."""

    name: str
    num_available: int
    """Rows that it has."""
    num_rows: int
    """Rows that are trained on in one pass: more than it has, where it is repeated."""


@dataclass
class DataCounts:
    """Counts of one pass over the data; of a stream, of what has been read so far."""

    num_rows: int = 0
    """Rows that are trained on."""
    num_sequences: int = 0
    """Sequences that hold them: fewer where they are packed."""
    num_tokens: int = 0
    """All tokens of those rows, prompts included."""
    num_trained_tokens: int = 0
    """The tokens among them that are predicted."""
    longest: int = 0
    """Tokens of the longest row, as it is trained on."""
    num_truncated: int = 0
    """Rows that were cut at `max_length`."""
    num_tokens_cut: int = 0
    """Tokens that were left out by that."""
    num_dropped: int = 0
    """Rows left out: cut to `max_length`, they had no token to train on."""
    num_without_rationale: int = 0
    """Rows that teach their completion alone, where others have a rationale too."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Rows by length before cutting; the key is the upper end of a bin in tokens."""
    sources: list[SourceCount] = field(default_factory=list)
    """The parts of a mixture."""

    def add(
        self,
        length: Int[np.ndarray, " rows"],
        num_trained: Int[np.ndarray, " rows"],
        num_cut: Int[np.ndarray, " rows"],
    ) -> None:
        """Counts rows by their lengths, trained tokens, and tokens cut."""
        self.num_rows += len(length)
        self.num_tokens += int(length.sum())
        self.num_trained_tokens += int(num_trained.sum())
        self.longest = max(self.longest, int(length.max(initial=0)))
        self.num_truncated += int((num_cut > 0).sum())
        self.num_tokens_cut += int(num_cut.sum())
        # Bins grow by half a power of two.
        steps = np.ceil(2 * np.log2(length + num_cut) - 1e-9)
        edges, counts = np.unique(np.floor(2 ** (steps / 2) + 1e-9), return_counts=True)
        self.lengths.update(dict(zip(edges.astype(int).tolist(), counts.tolist(), strict=True)))

    def as_json(self) -> dict[str, Any]:
        """Plain data; `lengths` as sorted pairs."""
        return {**asdict(self), "lengths": sorted(self.lengths.items())}

    def losses(self, max_length: int) -> str | None:
        """One line on what was cut or left out; None where nothing was."""
        if not (self.num_truncated or self.num_dropped):
            return None
        # A mixture takes its rows from those that are left.
        there = sum(source.num_available for source in self.sources) or self.num_rows
        return (
            f"data: {self.num_truncated} of {self.num_rows} rows were cut to max_length {max_length} "
            f"({self.num_tokens_cut} tokens); {self.num_dropped} of {there + self.num_dropped} had "
            "nothing to train on and were dropped"
        )
