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


@dataclass(frozen=True)
class Window:
    """A stretch of tokens that are read together."""

    input_ids: list[int]
    scored_spans: list[int]
    """Which of them are predicted: `[start, end, start, end, ...]`, never the first."""
    example: int
    """The row, or of a stream the window, that the loss counts for."""

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
    texts = encode_texts([row["text"] for row in rows], tokenizer)
    # A row of one token has nothing that could be scored.
    texts = [ids for ids in texts if len(ids) > 1]
    if not texts:
        raise InputError(f"tasks.{task.name}.data: no row has two tokens; name longer texts")
    length = task.data.max_length
    if task.join_rows:
        stream = [token for ids in texts for token in ids]
        for example, ids in enumerate(_cut(stream, length)):
            yield Window(ids, [1, len(ids)], example)
    else:
        for example, whole in enumerate(texts):
            for ids in _cut(whole, length):
                yield Window(ids, [1, len(ids)], example)


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


def _cut(ids: list[int], length: int) -> Iterator[list[int]]:
    for start in range(0, len(ids) - 1, length):
        yield ids[start : start + length + 1]
