"""From rows of text to token ids; batches are made in `llmkd.data.collate`.

What begins and ends a sequence:

- A `text` begins with the tokenizer's begin-of-text token wherever there is one, added here where
  the tokenizer does not do so itself: all of a text is trained on, and its first token needs
  something to be predicted from.
- A `prompt` is tokenized as a server would, with the special tokens that the tokenizer adds by
  itself, but an end-of-text token that it adds is taken off again.
- A `completion` is tokenized by itself, without special tokens, and joined to the prompt.
  A tokenizer that begins every text with a space (SentencePiece) does so here too.
- The end-of-text token ends the sequence, unless `append_eos` is false or the sequence was cut.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow
from transformers import PreTrainedTokenizerBase

from llmkd.errors import InputError

ROWS_AT_ONCE = 1000
SCHEMA = pyarrow.schema(
    {"input_ids": pyarrow.list_(pyarrow.int32()), "num_prompt_tokens": pyarrow.int32()}
)


@dataclass(frozen=True)
class TokenizedRows:
    """Token ids, and what became of the rows on the way."""

    rows: datasets.Dataset
    """`input_ids`, and `num_prompt_tokens`: how many of them, from the first, are not trained on."""
    num_rows: int
    num_tokens: int
    """All tokens of the kept rows, prompts included."""
    longest: int
    """Tokens of the longest kept row."""
    num_truncated: int
    """Kept rows that were cut at `max_length`."""
    num_dropped: int
    """Rows left out: cut to `max_length`, they had no token to train on."""


def tokenize(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    append_eos: bool,
) -> TokenizedRows:
    """Tokenizes rows of `text`, or of `prompt` and `completion`.

    Args:
        rows: As `llmkd.data.sources.load_rows` gives them.
        tokenizer: Its own length limit is not looked at.
        max_length: Longest sequence in tokens, the end-of-text token included.
        append_eos: Ends every sequence that was not cut with the end-of-text token.

    Raises:
        InputError: No row has a token to train on, or there is no end-of-text token to append.
    """
    if append_eos and tokenizer.eos_token_id is None:
        raise InputError(
            "data.append_eos: the tokenizer has no end-of-text token; write append_eos: false"
        )
    eos = [tokenizer.eos_token_id] if append_eos else []
    tables, num_tokens, longest, num_truncated = [], 0, 0, 0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        ids, num_prompt_tokens = [], []
        for prompt, completion in _encode_rows(rows[start : start + ROWS_AT_ONCE], tokenizer):
            sequence = prompt + completion + eos
            if min(len(sequence), max_length) <= max(len(prompt), 1):
                continue
            num_truncated += len(sequence) > max_length
            ids.append(sequence[:max_length])
            num_prompt_tokens.append(len(prompt))
            num_tokens += len(ids[-1])
            longest = max(longest, len(ids[-1]))
        tables.append(pyarrow.table([ids, num_prompt_tokens], schema=SCHEMA))
    kept = datasets.Dataset(pyarrow.concat_tables(tables))
    if not len(kept):
        raise InputError(
            f"data.max_length: none of {len(rows)} rows has a token to train on within "
            f"{max_length} tokens; write a larger max_length"
        )
    return TokenizedRows(kept, len(kept), num_tokens, longest, num_truncated, len(rows) - len(kept))


def encode_prompts(prompts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of prompts that are to be continued: never ended by an end-of-text token."""
    # verbose=False: no warning about the tokenizer's own length limit.
    encoded: Any = tokenizer(prompts, verbose=False)["input_ids"]
    return [ids[:-1] for ids in encoded] if _adds_eos(tokenizer) else encoded


def encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of texts, each begun by the begin-of-text token where the tokenizer has one."""
    bos: Any = tokenizer.bos_token_id
    encoded = encode_prompts(texts, tokenizer)
    if bos is None:
        return encoded
    return [ids if ids[:1] == [bos] else [bos, *ids] for ids in encoded]


def _encode_rows(
    rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], list[int]]]:
    """Prompt and completion of each row; of a text, nothing is prompt."""
    if "text" in rows:
        return (([], ids) for ids in encode_texts(rows["text"], tokenizer))
    completions = tokenizer(rows["completion"], add_special_tokens=False, verbose=False)
    return zip(encode_prompts(rows["prompt"], tokenizer), completions["input_ids"], strict=True)


def _adds_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    eos = tokenizer.eos_token_id
    # Compared with the plain tokens, and not on an empty text: there, an end-of-text token that
    # also serves as the begin-of-text token (GPT-2) would look like one at the end.
    with_special, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)
    return eos is not None and with_special[-1] == eos and plain["input_ids"][-1:] != [eos]
