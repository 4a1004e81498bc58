"""Batches: the one place where targets are shifted against inputs.

Below a batch, position t of every tensor belongs to the prediction of `target_ids[:, t]`, the token
that follows `input_ids[:, t]`. Nobody else shifts. Where nothing is to be learned (the next token is
part of the prompt, or there is none), `target_ids` is -100.

    input_ids       <bos>   2   +   3   =   5  <eos>  <pad>
    attention_mask      1   1   1   1   1   1      1      0
    target_ids       -100 -100 -100 -100  5 <eos>  -100   -100

A packed batch has `position_ids` in place of the attention mask: where they start over, another
document begins, and transformers lets no token see across. Padding is a document of its own.

    input_ids       <bos>   2   +   3   =   5  <eos>  <bos>  1  +  1  =  2  <eos>  <pad>
    position_ids        0   1   2   3   4   5      6      0  1  2  3  4  5      6      0

Batches for an encoder and a decoder are in `llmkd.data.seq2seq`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from llmkd.losses.divergences import IGNORED_ID

Batch = dict[str, Int64[Tensor, "batch time"]]


@dataclass(frozen=True)
class Collator:
    """Makes a right-padded batch from rows with `input_ids` and `trained_spans`.

    Args:
        pad_token_id: Fills `input_ids`. It may be a token that also occurs in text, since padding
            is told apart by length.
        is_flat: Puts packed rows one after the other into a single row without padding, which is
            how flash attention tells documents apart.
    """

    pad_token_id: int
    is_flat: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Pads the rows to the longest and shifts the targets by one."""
        is_packed = "document_lengths" in rows[0]
        tensors = [_packed(row) if is_packed else _single(row) for row in rows]
        if is_packed and self.is_flat:
            return {name: torch.cat([t[name] for t in tensors])[None] for name in tensors[0]}
        longest = max(len(tensor["input_ids"]) for tensor in tensors)
        return {
            name: torch.stack([self._padded(tensor[name], name, longest) for tensor in tensors])
            for name in tensors[0]
        }

    def _padded(self, values: Tensor, name: str, longest: int) -> Tensor:
        missing = longest - len(values)
        if name == "position_ids":
            return torch.cat([values, torch.arange(missing)])
        fill = {"input_ids": self.pad_token_id, "attention_mask": 0, "target_ids": IGNORED_ID}
        return torch.nn.functional.pad(values, (0, missing), value=fill[name])


def _single(row: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = _shifted(row)
    return {**tensors, "attention_mask": torch.ones_like(tensors["input_ids"])}


def _packed(row: Mapping[str, Any]) -> dict[str, Tensor]:
    positions = torch.cat([torch.arange(length) for length in row["document_lengths"]])
    return {**_shifted(row), "position_ids": positions}


def _shifted(row: Mapping[str, Any]) -> dict[str, Tensor]:
    ids = torch.as_tensor(row["input_ids"], dtype=torch.long)
    targets = torch.full_like(ids, IGNORED_ID)
    spans = row["trained_spans"]
    for start, end in zip(spans[::2], spans[1::2], strict=True):
        # The token at `start` is predicted at the position before it.
        targets[start - 1 : end - 1] = ids[start:end]
    return {"input_ids": ids, "target_ids": targets}
