"""Prompt and completion for models with an encoder and a decoder: T5, BART and their kin.

- A `prompt` goes to the encoder as the tokenizer writes a text: with all the special tokens that it
  adds by itself, an end-of-text token (T5's) included, and cut before those at its end.
- A `completion` is what the decoder is to write, again with the special tokens that the tokenizer
  adds by itself, since such models have learned to write them: BART begins with `<s>`. A first one
  that the decoder begins with anyway is left out.
- The end-of-text token ends it, unless `append_eos` is false or it was cut. A tokenizer that writes
  more after it (mBART's language) does so here too.

`max_length` bounds each of the two. In the batch, position t of `decoder_input_ids` and `target_ids`
belongs to the prediction of `target_ids[:, t]`, as everywhere; nobody else shifts.

    input_ids            2   +   3   =  <eos>
    attention_mask       1   1   1   1   1
    decoder_input_ids  <pad> 5
    target_ids           5 <eos>

Padding is on the right: the encoder's is masked, and after the decoder's nothing is predicted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from llmkd.data.tokenize import Example, Tokenize, stored_example
from llmkd.errors import InputError
from llmkd.losses.divergences import IGNORED_ID
from llmkd.models.agreement import PACKED_PAIRS, not_pairs
from llmkd.recipe.data import Sequences
from llmkd.teacher_data.store.rows import tokens_key


class Seq2SeqTokenize(Tokenize):
    """Turns rows of prompt and completion into examples for an encoder and a decoder.

    `input_ids` is what the encoder reads, then what the decoder is to write; the one trained span
    is the latter.

    Args:
        tokenizer: Its own length limit is not looked at.
        sequences: What the recipe says of lengths and ends.
        decoder_start_token_id: What the model's decoder begins with.

    Raises:
        InputError: Rows without prompt and completion, packing, or no end-of-text token to append.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        sequences: Sequences,
        *,
        decoder_start_token_id: int,
    ):
        if sequences.packing:
            raise InputError(f"data.packing: {PACKED_PAIRS}")
        super().__init__(tokenizer, sequences)
        self.decoder_start_token_id = decoder_start_token_id
        self.form = f"seq2seq, begun by {decoder_start_token_id}"

    def num_read(self, column: Callable[[str], Any]) -> Any:
        """Tokens on the longer side, of encoder and decoder."""
        num_trained = column("num_trained")
        return np.maximum(column("length") - num_trained, num_trained)

    def examples_of(self, rows: list[dict[str, Any]]) -> Iterable[Example | None]:
        """Of each row, in order; None where one of its sides has no token."""
        if "token_ids" in rows[0]:
            return (self._stored(row) for row in rows)
        if "completion" not in rows[0]:
            raise InputError(not_pairs("data", next(iter(rows[0]))))
        sources = encode_sources([row["prompt"] for row in rows], self.tokenizer)
        targets = self._targets([row["completion"] for row in rows])
        ending = len(_ending(self.tokenizer, "text"))
        return (self._example(*sides, ending) for sides in zip(sources, targets, strict=True))

    def _stored(self, row: dict[str, Any]) -> Example | None:
        num_read, longest = row["spans"][0], self.sequences.max_length
        if num_read > longest:
            # Cut, it would no longer be what the teacher read.
            raise InputError(
                f"data.max_length: a row of the store has {num_read} tokens to read; write "
                f"max_length: {num_read} or more"
            )
        return stored_example(row, num_read + longest)

    def _targets(self, texts: list[str]) -> list[list[int]]:
        # Some tokenizers (Marian's) read another language on this side.
        encoded: Any = self.tokenizer(text_target=texts, verbose=False)["input_ids"]
        start, eos = [self.decoder_start_token_id], self._eos()
        own = _ending(self.tokenizer, "text_target")
        if eos:
            ending = own if eos[0] in own else [*own, *eos]
        else:
            ending = [token for token in own if token != self.tokenizer.eos_token_id]
        return [[*ids[ids[:1] == start : len(ids) - len(own)], *ending] for ids in encoded]

    def _example(self, source: list[int], target: list[int], num_ending: int) -> Example | None:
        """The two cut and joined, or None where one of them has no token."""
        longest = self.sequences.max_length
        read, written = _cut_before_ending(source, num_ending, longest), target[:longest]
        if not read or not written:
            return None
        length = len(read) + len(written)
        num_cut = len(source) + len(target) - length
        # Cut, what the encoder reads is another text.
        key = tokens_key([*read, *target])
        return Example([*read, *written], [len(read), length], length, len(written), num_cut, key)


def encode_sources(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids for an encoder, with whatever special tokens the tokenizer adds by itself."""
    # verbose=False: no warning about the tokenizer's own length limit.
    encoded: Any = tokenizer(texts, verbose=False)["input_ids"]
    return encoded


def _ending(tokenizer: PreTrainedTokenizerBase, side: str) -> list[int]:
    """The special tokens that a tokenizer puts after a `text`, or a `text_target`."""
    text: dict[str, Any] = {side: "a"}
    framed: Any = tokenizer(**text)["input_ids"]
    plain: Any = tokenizer(**text, add_special_tokens=False)["input_ids"]
    starts = (i for i in range(len(framed)) if plain and framed[i : i + len(plain)] == plain)
    return framed[next(starts, len(framed)) + len(plain) :]


def _cut_before_ending(ids: list[int], num_ending: int, longest: int) -> list[int]:
    if len(ids) <= longest or num_ending >= longest:
        return ids[:longest]
    return [*ids[: longest - num_ending], *ids[len(ids) - num_ending :]]


@dataclass(frozen=True)
class Seq2SeqCollator:
    """Makes a batch from rows of `Seq2SeqTokenize`: the one place where their targets are shifted.

    Args:
        pad_token_id: Fills both inputs on the right.
        decoder_start_token_id: What the model's decoder begins with.
    """

    pad_token_id: int
    decoder_start_token_id: int

    def __call__(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> dict[str, Int64[Tensor, "batch _time"]]:
        """Pads the rows to the longest source and the longest target."""
        pairs = [_split(row) for row in rows]
        start = torch.tensor([self.decoder_start_token_id])
        return {
            "input_ids": _padded([source for source, _ in pairs], self.pad_token_id),
            "attention_mask": _padded([torch.ones_like(source) for source, _ in pairs], 0),
            "decoder_input_ids": _padded(
                [torch.cat([start, target[:-1]]) for _, target in pairs], self.pad_token_id
            ),
            "target_ids": _padded([target for _, target in pairs], IGNORED_ID),
        }


def _split(row: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    ids, start = torch.as_tensor(row["input_ids"], dtype=torch.long), row["trained_spans"][0]
    return ids[:start], ids[start:]


def _padded(rows: list[Tensor], fill: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=fill)
