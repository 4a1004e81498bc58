"""What a model reads at once when text is scored.

A row of text begins with the begin-of-text token and ends without an end-of-text token. Rows, or all
rows joined to one stream, are cut into windows in each of which the model reads `max_length` tokens
and predicts as many, each from those before it in the window. A window begins with the last token
that the one before it predicted, so every token but a row's (or the stream's) first is scored once.

A row of prompt and completion, or of messages, is one window, made as for training: only what would
be trained on is scored, the end-of-text token included. A seq2seq model is scored on prompt and
completion only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

from transformers import PreTrainedTokenizerBase

from llmkd.data.prepare import Tokenizing
from llmkd.data.sources import Row, iter_rows
from llmkd.data.tokenize import Tokenize, encode_texts
from llmkd.errors import InputError
from llmkd.progress import say
from llmkd.recipe.data import Sequences
from llmkd.recipe.evaluation_base import TextTask

_Token = tuple[int, float, float]
"""A token's id, and the bytes and words of text that it stands for."""


@dataclass(frozen=True)
class Window:
    """A stretch of tokens that are read together."""

    input_ids: list[int]
    scored_spans: list[int]
    """Which of them are predicted: `[start, end, start, end, ...]`, never the first."""
    example: int
    """The row, or of a stream the window, that the loss counts for."""
    num_bytes: float = 0.0
    """UTF-8 bytes of the text that is scored; 0 of a completion."""
    num_words: float = 0.0
    """Words of it, which white space parts."""

    @property
    def num_read(self) -> int:
        """Tokens that something is predicted from: all but the last."""
        return len(self.input_ids) - 1

    @property
    def num_scored(self) -> int:
        """Tokens that are predicted."""
        return sum(self.scored_spans[1::2]) - sum(self.scored_spans[::2])


def windows_of(
    task: TextTask,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    tokenizing: Tokenizing = Tokenize,
) -> Iterator[Window]:
    """All windows of a task, in the order of its rows.

    Args:
        task: Which rows.
        tokenizer: The model's.
        seed: Of the rows, where they are made rather than read.
        tokenizing: What the model's kind makes of rows; all but `Tokenize` itself take no text.

    Raises:
        InputError: Nothing that could be scored.
    """
    rows = iter_rows(task.data, seed=seed, need="scored")
    first = next(rows)
    rows = chain([first], rows)
    if "text" in first and tokenizing is Tokenize:
        return _of_texts(rows, task, tokenizer)
    return _of_answers(rows, task, partial(tokenizing, tokenizer))


def _of_texts(
    rows: Iterator[Row], task: TextTask, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Window]:
    written = [row["text"] for row in rows]
    encoded = zip(encode_texts(written, tokenizer), written, strict=True)
    # A row of one token has nothing that could be scored.
    texts = [_tokens(ids, text, tokenizer) for ids, text in encoded if len(ids) > 1]
    if not texts:
        raise InputError(f"tasks.{task.name}.data: no row has two tokens; name longer texts")
    if num_dropped := len(written) - len(texts):
        say(f"{task.name}: of {len(written)} rows {num_dropped} had nothing to score")
    if task.join_rows:
        texts = [[token for tokens in texts for token in tokens]]
    parts = (
        (row, tokens)
        for row, whole in enumerate(texts)
        for tokens in _cut(whole, task.data.max_length)
    )
    for number, (row, tokens) in enumerate(parts):
        yield _window(tokens, number if task.join_rows else row)


def _of_answers(
    rows: Iterator[Row], task: TextTask, tokenizing: Callable[[Sequences], Tokenize]
) -> Iterator[Window]:
    if task.join_rows:
        raise InputError(
            f"tasks.{task.name}.join_rows: only rows of text can be joined; leave it out, or say "
            "which column is the text by data.columns: {text: NAME}"
        )
    shape = task.data.model_dump(include={"max_length", "append_eos", "assistant_only_loss"})
    tokenize = tokenizing(Sequences(**shape))
    examples = list(tokenize(rows))
    tokenize.refuse_nothing()
    num_cut = sum(example.num_cut > 0 for example in examples)
    if num_cut or tokenize.num_dropped:
        say(
            f"{task.name}: of {tokenize.num_rows} rows {num_cut} were cut to max_length "
            f"{task.data.max_length}, {tokenize.num_dropped} had nothing to score"
        )
    for number, example in enumerate(examples):
        yield Window(example.input_ids, example.trained_spans, number)


def _tokens(ids: list[int], text: str, tokenizer: PreTrainedTokenizerBase) -> list[_Token]:
    """Token by token, each with an equal share of the text's bytes and words.

    Shares, as a token may be part of a character, and windows cut words; over a row they add up.
    """
    first = int(ids[0] == tokenizer.bos_token_id)
    count = len(ids) - first
    shares = (len(text.encode()) / count, len(text.split()) / count)
    return [(token, *((0.0, 0.0) if i < first else shares)) for i, token in enumerate(ids)]


def _window(tokens: list[_Token], example: int) -> Window:
    ids = [token for token, _, _ in tokens]
    scored = tokens[1:]
    return Window(
        ids,
        [1, len(ids)],
        example,
        num_bytes=sum(share for _, share, _ in scored),
        num_words=sum(share for _, _, share in scored),
    )


def _cut(tokens: list[_Token], length: int) -> Iterator[list[_Token]]:
    for start in range(0, len(tokens) - 1, length):
        yield tokens[start : start + length + 1]
