"""A teacher's store beside the training: what it says of each example, found by the tokens."""

from collections.abc import Sequence

import datasets
import numpy as np
from jaxtyping import Int, Int64, UInt8

from llmkd.data.packing import PackedExamples
from llmkd.data.prepare import TrainingData
from llmkd.errors import InputError
from llmkd.teacher_data.captured import Positions
from llmkd.teacher_data.store import Store
from llmkd.teachers.captured import Document, places, selected

_ROWS_AT_ONCE = 100_000
_HOW = (
    "capture the data that is trained on, with the same tokenizer and at least as long a max_length, "
    "or train on the store's own rows: data: {kind: store, path: ...}"
)


class StoreSource:
    """Implements `Source`."""

    def __init__(self, store: Store):
        self.store = store

    def positions(self, documents: Sequence[Document]) -> Positions:
        """See `Source.positions`.

        Raises:
            InputError: The store lacks a document, or some of its tokens.
        """
        rows = self.store.find(_keys([document.tokens_key for document in documents])).tolist()
        chosen = [self._places(*pair) for pair in zip(rows, documents, strict=True)]
        found = self.store.positions(rows)
        assert found is not None, "a store of text alone is refused"
        if all(isinstance(places, slice) for places in chosen):
            return found
        ends = np.cumsum(self.store.num_positions[rows])
        of_rows = np.split(np.arange(ends[-1]), ends[:-1])
        return selected(found, np.concatenate([x[y] for x, y in zip(of_rows, chosen, strict=True)]))

    def _places(self, row: int, document: Document) -> slice | Int[np.ndarray, " n"]:
        """Which of a row's positions are the document's."""
        if row < 0:
            raise InputError(f"teacher.path: the store lacks an example of the data; {_HOW}")
        spans, wanted = self.store.spans(row), list(document.spans)
        if spans == wanted:
            return slice(None)
        is_other_side = self.store.settings.is_encoder_decoder and spans[0] != wanted[0]
        chosen = None if is_other_side else places(spans, wanted)
        if chosen is None:
            raise InputError(
                f"teacher.path: row {row + 1} of the store has other tokens to predict than the "
                f"data ({spans} and {wanted}); {_HOW}"
            )
        return chosen

    def check_has_all(self, data: TrainingData) -> None:
        """Looks up every example before the first step; of a stream there is nothing to look up.

        Raises:
            InputError: Names the first examples that the store lacks, or has less of.
        """
        examples = data.dataset
        if isinstance(examples, PackedExamples):
            examples = examples.examples
        if not isinstance(examples, datasets.Dataset):
            return
        table = examples.with_format("arrow")
        missing, shorter = list[int](), list[int]()
        for start in range(0, len(examples), _ROWS_AT_ONCE):
            part = table[start : start + _ROWS_AT_ONCE]
            found = self.store.find(_keys(part["tokens_key"].to_pylist()))
            is_short = self._is_short(
                found, part["length"].to_numpy(), part["num_trained"].to_numpy()
            )
            missing += (start + np.flatnonzero(found < 0)).tolist()
            shorter += (start + np.flatnonzero(is_short)).tolist()
        problems = [
            f"teacher.path: the store {what} {len(rows)} of {len(examples)} examples, first number "
            f"{rows[0] + 1}: tokens {examples[rows[0]]['input_ids'][:8]}...; {_HOW}"
            for rows, what in ((missing, "lacks"), (shorter, "has fewer tokens of"))
            if rows
        ]
        if problems:
            raise InputError(problems)

    def _is_short(
        self,
        found: Int64[np.ndarray, " rows"],
        length: Int[np.ndarray, " rows"],
        num_trained: Int[np.ndarray, " rows"],
    ) -> np.ndarray:
        num_tokens, num_positions = self.store.num_tokens[found], self.store.num_positions[found]
        return (found >= 0) & ((num_tokens < length) | (num_positions < num_trained))


def _keys(keys: Sequence[bytes]) -> UInt8[np.ndarray, "rows 16"]:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
