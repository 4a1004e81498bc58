"""From rows to token ids; batches are made in `llmkd.data.collate`.

What begins and ends a sequence:

- A `text` begins with the tokenizer's begin-of-text token wherever there is one, added here where
  the tokenizer does not do so itself: all of a text is trained on, and its first token needs
  something to be predicted from.
- A `prompt` is tokenized as a server would, with the special tokens that the tokenizer adds by
  itself, but an end-of-text token that it adds is taken off again.
- A `completion` is tokenized by itself, without special tokens, and joined to the prompt.
  A tokenizer that begins every text with a space (SentencePiece) does so here too.
- The end-of-text token ends the sequence, unless `append_eos` is false or the sequence was cut.
- `messages` begin and end as their chat template says; see `llmkd.data.chat`.

Models with an encoder and a decoder read rows otherwise; see `llmkd.data.seq2seq`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from llmkd.data.chat import ChatEncoder, Span
from llmkd.data.columns import Need
from llmkd.errors import InputError
from llmkd.recipe.data import Sequences
from llmkd.teacher_data.store.rows import tokens_key

ROWS_AT_ONCE = 1000
_IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "input_ids": _IDS,
        "trained_spans": _IDS,
        "length": pa.int32(),
        "num_trained": pa.int32(),
        "num_cut": pa.int32(),
        "tokens_key": pa.binary(16),
    }
)
"""Of a file of examples."""


@dataclass(frozen=True)
class Example:
    """One row as token ids."""

    input_ids: list[int]
    trained_spans: list[int]
    """Which of them are predicted: `[start, end, start, end, ...]`, never the first token."""
    length: int
    num_trained: int
    num_cut: int
    """Tokens that were left out at the end, beyond `max_length`."""
    tokens_key: bytes
    """`llmkd.teacher_data.store.tokens_key` of the whole sequence, before it was cut."""


class Tokenize:
    """Turns rows of one kind into examples.

    Args:
        tokenizer: Its own length limit is not looked at.
        sequences: What the recipe says of lengths, ends and masks.

    Raises:
        InputError: There is no end-of-text token to append.
    """

    need: Need = "example"
    """Which columns the rows have."""
    schema = SCHEMA
    """Of a file of the examples."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sequences: Sequences):
        self.tokenizer = tokenizer
        self.sequences = sequences
        self.form = "causal"
        """What examples of the same rows and settings may differ in."""
        self.num_rows = 0
        """Rows seen so far."""
        self.num_dropped = 0
        """Of those, rows left out: cut to `max_length`, they had no token to train on."""

    def __call__(self, rows: Iterable[dict[str, Any]]) -> Iterator[Example]:
        """Examples in the order of their rows, which all have the same columns."""
        rows = iter(rows)
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            examples = self.examples_of(chunk)
            self.num_rows += len(chunk)
            for example in examples:
                if example is None:
                    self.num_dropped += 1
                else:
                    yield example

    def num_read(self, column: Callable[[str], Any]) -> Any:
        """Tokens that a model reads at once: here all that an example has.

        Args:
            column: From the name of a field to its value, or to those of many examples.
        """
        return column("length")

    def refuse_nothing(self) -> None:
        """Raises InputError where every row was dropped."""
        if self.num_dropped == self.num_rows:
            limit = self.sequences.max_length
            raise InputError(
                f"data.max_length: none of {self.num_rows} rows has a token to train on within "
                f"{limit} tokens; write a larger max_length"
            )

    def examples_of(self, rows: list[dict[str, Any]]) -> Iterable[Example | None]:
        """Of each row, in order; None where, cut, it has no token to be trained on."""
        max_length = self.sequences.max_length
        if "token_ids" in rows[0]:
            return (stored_example(row, max_length) for row in rows)
        return (_cut(ids, spans, max_length) for ids, spans in self._encode(rows))

    def _encode(self, rows: list[dict[str, Any]]) -> Iterable[tuple[list[int], list[Span]]]:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        if "messages" in columns:
            encoder = ChatEncoder(self.tokenizer, self.sequences.assistant_only_loss)
            return encoder.encode(columns["messages"], self.num_rows + 1)
        eos = self._eos()
        if "text" in columns:
            whole = ([*ids, *eos] for ids in encode_texts(columns["text"], self.tokenizer))
            return ((ids, [(0, len(ids))]) for ids in whole)
        completions: Any = self.tokenizer(
            columns["completion"], add_special_tokens=False, verbose=False
        )
        prompts = encode_prompts(columns["prompt"], self.tokenizer)
        pairs = zip(prompts, completions["input_ids"], strict=True)
        return (
            (
                [*prompt, *completion, *eos],
                [(len(prompt), len(prompt) + len(completion) + len(eos))],
            )
            for prompt, completion in pairs
        )

    def _eos(self) -> list[int]:
        if not self.sequences.append_eos:
            return []
        eos: Any = self.tokenizer.eos_token_id
        if eos is None:
            raise InputError(
                "data.append_eos: the tokenizer has no end-of-text token; write append_eos: false"
            )
        return [eos]


def stored_example(row: dict[str, Any], max_length: int) -> Example | None:
    """A teacher store's row, cut at its end, or None where no token is left to be trained on."""
    spans = list(zip(row["spans"][::2], row["spans"][1::2], strict=True))
    example = _cut(row["token_ids"], spans, max_length)
    if example is None:
        return None
    num_cut = example.num_cut + row["num_cut"]
    return replace(example, num_cut=num_cut, tokens_key=row["tokens_key"])


def _cut(ids: list[int], spans: list[Span], max_length: int) -> Example | None:
    """The example cut at its end, or None where no token is left to be trained on."""
    kept = ids[:max_length]
    # The first token is never predicted.
    clipped = [(max(start, 1), min(end, len(kept))) for start, end in spans]
    clipped = [(start, end) for start, end in clipped if start < end]
    if not clipped:
        return None
    num_trained = sum(end - start for start, end in clipped)
    flat = [edge for span in clipped for edge in span]
    num_cut = len(ids) - len(kept)
    return Example(kept, flat, len(kept), num_trained, num_cut, tokens_key(ids))


def encode_prompts(prompts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of prompts that are to be continued: never ended by an end-of-text token."""
    # verbose=False: no warning about the tokenizer's own length limit.
    encoded: Any = tokenizer(prompts, verbose=False)["input_ids"]
    return [ids[:-1] for ids in encoded] if adds_eos(tokenizer) else encoded


def encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of texts, each begun by the begin-of-text token where the tokenizer has one."""
    bos: Any = tokenizer.bos_token_id
    encoded = encode_prompts(texts, tokenizer)
    if bos is None:
        return encoded
    return [ids if ids[:1] == [bos] else [bos, *ids] for ids in encoded]


def adds_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer ends every text by an end-of-text token by itself."""
    eos = tokenizer.eos_token_id
    # Compared with the plain tokens, and not on an empty text: there, an end-of-text token that
    # also serves as the begin-of-text token (GPT-2) would look like one at the end.
    with_special, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)
    return eos is not None and with_special[-1] == eos and plain["input_ids"][-1:] != [eos]
