"""A teacher that is not here: what it said comes with the batch, from a store or from a server."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from llmkd.losses.signals import SampledLogits, SparseLogits, TopKLogits
from llmkd.teacher_data.captured import Positions, SampledPositions, TopKPositions

Row = Mapping[str, Any]
PREFIX = "teacher_"
"""How a batch's tensors are called that a teacher has answered with."""


@dataclass(frozen=True)
class Document:
    """One example of a batch; a packed row has several."""

    token_ids: Sequence[int]
    spans: Sequence[int]
    """Which tokens are predicted: `[start, end, start, end, ...]`."""
    tokens_key: bytes


@runtime_checkable
class Source(Protocol):
    """Where the teacher's positions come from."""

    def positions(self, documents: Sequence[Document]) -> Positions:
        """One position per token of the documents' spans, in their order."""
        ...


@dataclass(frozen=True)
class WithTeacher:
    """Makes batches that have what the teacher says of them beside them.

    Args:
        collate: Makes the batch itself.
        source: Asked for the positions, in the process that makes the batch.
    """

    collate: Callable[[list[Any]], dict[str, Tensor]]
    source: Source

    def __call__(self, rows: list[Any]) -> dict[str, Tensor]:
        """The batch; its `teacher_...` tensors have a row for every position that is trained on."""
        batch = self.collate(rows)
        documents = [document for row in rows for document in documents_of(row)]
        positions = self.source.positions(documents)
        found = {PREFIX + name: torch.from_numpy(x) for name, x in vars(positions).items()}
        return batch | found


def documents_of(row: Row) -> Iterator[Document]:
    """The examples in a row, packed or not."""
    if "document_lengths" not in row:
        yield Document(row["input_ids"], row["trained_spans"], row["tokens_key"])
        return
    starts = np.cumsum([0, *row["document_lengths"]])
    spans = np.asarray(row["trained_spans"]).reshape(-1, 2)
    of_document = np.searchsorted(starts, spans[:, 0], side="right") - 1
    for number, key in enumerate(row["tokens_keys"]):
        start, end = starts[number : number + 2]
        own = (spans[of_document == number] - start).ravel().tolist()
        yield Document(row["input_ids"][start:end], own, key)


def places(stored: Sequence[int], wanted: Sequence[int]) -> Int[np.ndarray, " n"] | None:
    """Which of the positions of some spans are those of others; None where one is not there."""
    have, want = _tokens_of(stored), _tokens_of(wanted)
    found = np.searchsorted(have, want)
    is_there = found < len(have)
    if not (is_there.all() and (have[found] == want).all()):
        return None
    return found


def _tokens_of(spans: Sequence[int]) -> Int[np.ndarray, " n"]:
    pairs = zip(spans[::2], spans[1::2], strict=True)
    return np.concatenate([np.arange(start, end) for start, end in pairs])


class CapturedTeacher:
    """Reads the teacher's tensors of a batch that `WithTeacher` made; implements `Teacher`.

    Args:
        temperature: At which the teacher was asked.
    """

    def __init__(self, *, temperature: float):
        self.temperature = temperature

    def signals(self, batch: dict[str, Tensor], kept: Tensor) -> SparseLogits:
        """See `Teacher.signals`."""
        found = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in batch.items()
            if name.startswith(PREFIX)
        }
        token_ids = found["token_ids"].long()
        if "counts" in found:
            counts = found["counts"].float()
            return SampledLogits(
                token_ids,
                counts / counts.sum(-1, keepdim=True),
                found["entropy"],
                found["label_log_prob"],
                self.temperature,
            )
        return TopKLogits(
            token_ids,
            found["log_probs"],
            found["tail_log_prob"],
            found["label_log_prob"],
            self.temperature,
        )


def selected(positions: Positions, indices: Int[np.ndarray, " n"]) -> Positions:
    """Some of the positions."""
    assert isinstance(positions, TopKPositions | SampledPositions)
    return type(positions)(**{name: x[indices] for name, x in vars(positions).items()})
