"""Texts with labels, from rows to batches: one target per sequence, and nothing to shift.

A text is framed as its tokenizer does by itself (`[CLS] ... [SEP]`), as it will be when the model is
used; a pair of texts too. Rows are tokenized anew by each run: they are short, and not cached.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sys import maxsize
from typing import Any

import datasets
import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llmkd.data.counts import DataCounts
from llmkd.data.labels import label_text
from llmkd.data.prepare import TrainingData
from llmkd.data.sources import Row, iter_rows
from llmkd.data.tokenize import ROWS_AT_ONCE
from llmkd.errors import DataError
from llmkd.recipe.data import Classification, LabelledRows, Sequences, Task, is_regression

PADDING = {"attention_mask": 0, "token_type_ids": 0}


def labelled_rows(source: Classification, *, seed: int) -> list[Row]:
    """All rows, with `text`, perhaps `text_pair`, and `label` as text; of a regression as a number.

    Raises:
        InputError: Nothing there, or rows that cannot be used.
    """
    rows = iter_rows(source, seed=seed, need="labelled")
    as_label = float if is_regression(source) else label_text
    return [{**row, "label": as_label(row["label"])} for row in rows]


def labels_of(source: Classification, rows: Sequence[Row]) -> set[str]:
    """The labels that rows may have: those that they have, or all of a task."""
    if isinstance(source, LabelledRows):
        return {row["label"] for row in rows}
    from llmkd.data.intents import LABELS

    return set(LABELS)


def max_length_of(source: Task | LabelledRows) -> int:
    """Most tokens of a sequence; a procedural task's are as long as they are."""
    return source.max_length if isinstance(source, LabelledRows) else maxsize


@dataclass(frozen=True)
class EncodedRow:
    """A row as a model reads it."""

    inputs: dict[str, list[int]]
    """`input_ids`, and `token_type_ids` where the tokenizer gives them."""
    num_cut: int
    """Tokens that were left out, beyond the longest that is allowed."""


def encode(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[EncodedRow]:
    """Frames and cuts texts as the tokenizer does: of a pair, the longer text is cut first.

    Raises:
        DataError: `max_length` leaves no token for a text beside the special ones.
    """
    is_pair = "text_pair" in rows[0]
    num_special = tokenizer.num_special_tokens_to_add(pair=is_pair)
    if max_length < (least := num_special + 1 + is_pair):
        raise DataError(
            "max_length",
            f"{max_length} tokens, of which {num_special} are special, leave no room for text; write "
            f"max_length: {least} or more",
        )
    encoded: list[EncodedRow] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chunk = rows[start : start + ROWS_AT_ONCE]
        whole = _tokens(chunk, tokenizer)
        lengths = [len(inputs["input_ids"]) for inputs in whole]
        long = [i for i, length in enumerate(lengths) if length > max_length]
        cut = _tokens([chunk[i] for i in long], tokenizer, truncation=True, max_length=max_length)
        for i, inputs in zip(long, cut, strict=True):
            whole[i] = inputs
        encoded += [
            EncodedRow(inputs, length - len(inputs["input_ids"]))
            for inputs, length in zip(whole, lengths, strict=True)
        ]
    return encoded


def _tokens(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, **settings: Any
) -> list[dict[str, list[int]]]:
    if not rows:
        return []
    texts: list[Any] = [
        [row[name] for row in rows] for name in ("text", "text_pair") if name in rows[0]
    ]
    found: Any = tokenizer(*texts, return_attention_mask=False, verbose=False, **settings)
    return [{name: found[name][i] for name in found} for i in range(len(rows))]


def prepare_labelled(
    rows: Sequence[Row],
    ids: Mapping[str, int] | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
) -> TrainingData:
    """What a trainer reads.

    Args:
        rows: From `labelled_rows`.
        ids: From the rows' labels to the student's outputs, see `label_ids`; None of a regression.
        tokenizer: The student's.
        max_length: Most tokens of a sequence.
    """
    encoded = encode(rows, tokenizer, max_length)
    dataset = datasets.Dataset.from_list(
        [
            {**one.inputs, "target": row["label"] if ids is None else ids[row["label"]]}
            for one, row in zip(encoded, rows, strict=True)
        ]
    )
    lengths = np.array([len(one.inputs["input_ids"]) for one in encoded])
    counts = DataCounts(num_sequences=len(rows))
    counts.add(lengths, np.ones_like(lengths), np.array([one.num_cut for one in encoded]))
    sequences = Sequences(max_length=max_length)
    return TrainingData(dataset, lengths.tolist(), counts, sequences, longest=counts.longest)


@dataclass(frozen=True)
class LabelCollator:
    """Makes a right-padded batch from rows with `input_ids` and `target`.

    Args:
        pad_token_id: Fills `input_ids`.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, perhaps `token_type_ids` [B, S], and `target_ids` [B].

        Of a regression `target_ids` are the labels themselves, in float32.
        """
        names = [name for name in rows[0] if name != "target"]
        batch = {name: self._padded([row[name] for row in rows], name) for name in names}
        masks = [[1] * len(row["input_ids"]) for row in rows]
        return {
            **batch,
            "attention_mask": self._padded(masks, "attention_mask"),
            "target_ids": torch.tensor([row["target"] for row in rows]),
        }

    def _padded(self, rows: Sequence[Sequence[int]], name: str) -> Int64[Tensor, "batch time"]:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.as_tensor(row) for row in rows],
            batch_first=True,
            padding_value=PADDING.get(name, self.pad_token_id),
        )
