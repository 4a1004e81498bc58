"""Batches: the one place where targets are shifted against inputs.

Below a batch, position t of every tensor belongs to the prediction of `target_ids[:, t]`, the token
that follows `input_ids[:, t]`. Nobody else shifts. Where nothing is to be learned (the next token is
part of the prompt, or there is none), `target_ids` is -100.

    input_ids       <bos>   2   +   3   =   5  <eos>  <pad>
    attention_mask      1   1   1   1   1   1      1      0
    target_ids       -100 -100 -100 -100  5 <eos>  -100   -100
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from llmkd.losses.divergences import IGNORED_ID


@dataclass(frozen=True)
class Collator:
    """Makes a right-padded batch from rows with `input_ids` and `num_prompt_tokens`.

    Args:
        pad_token_id: Fills `input_ids`. It may be a token that also occurs in text, since padding
            is told apart by length.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Int64[Tensor, "batch time"]]:
        """Pads the rows to the longest and shifts the targets by one."""
        longest = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), longest)
        input_ids = torch.full(shape, self.pad_token_id)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        target_ids = torch.full(shape, IGNORED_ID)
        for i, row in enumerate(rows):
            ids = torch.as_tensor(row["input_ids"], dtype=torch.long)
            input_ids[i, : len(ids)] = ids
            attention_mask[i, : len(ids)] = 1
            # The first token is never predicted, so the first target is the second token.
            first = max(row["num_prompt_tokens"], 1)
            target_ids[i, first - 1 : len(ids) - 1] = ids[first:]
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "target_ids": target_ids,
        }
