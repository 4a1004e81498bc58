"""What a teacher is asked: plain text, or a conversation in its chat template, as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from llmkd.data.chat import TEMPLATE_ERRORS
from llmkd.data.conversations import (
    NO_CHAT_TEMPLATE,
    Messages,
    conversation,
    no_conversations,
    refuse_unused,
)
from llmkd.data.seq2seq import encode_sources
from llmkd.data.sources import Row, iter_rows
from llmkd.data.tokenize import encode_prompts
from llmkd.errors import DataError, InputError
from llmkd.models.kinds import is_seq2seq
from llmkd.recipe.data import AdditionTask, PromptRows


@dataclass(frozen=True)
class Prompt:
    """One thing that a teacher is asked."""

    token_ids: list[int]
    text: str
    """What these stand for; of a conversation, with the template's special tokens."""
    messages: Messages | None = None
    """The conversation; None of plain text."""

    def answered(self, completion: str) -> Row:
        """The row of a data set that has the answer too, whatever tokenizer reads it."""
        if self.messages is None:
            return {"prompt": self.text, "completion": completion}
        return {"messages": [*self.messages, {"role": "assistant", "content": completion}]}


def read_prompts(
    source: AdditionTask | PromptRows,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    *,
    seed: int,
) -> list[Prompt]:
    """All prompts of a generate stage, in the order of its rows.

    Args:
        source: The stage's `data`, with `stage:NAME` already replaced by a path.
        tokenizer: The teacher's, with the chat template that is to be used.
        config: The teacher's.
        seed: Decides which sums a procedural task makes.

    Raises:
        InputError: Rows that cannot be used, or conversations without a chat template for them.
    """
    rows = list(iter_rows(source, seed=seed, need="prompt"))
    if isinstance(source, AdditionTask):
        return _of_texts([row["prompt"] for row in rows], tokenizer, config)
    refuse_unused(rows[0], source)
    found = [conversation(row, number, source) for number, row in enumerate(rows, 1)]
    conversations = [messages for messages in found if messages is not None]
    if not conversations:
        return _of_texts([row["prompt"] for row in rows], tokenizer, config)
    if is_seq2seq(config):
        raise DataError("dataset_name", no_conversations(source.dataset_name))
    return _of_conversations(conversations, tokenizer)


def encoded_prompts(
    config: PreTrainedConfig, prompts: list[str], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Token ids as a model reads them: to go on with, or, of a seq2seq model, to answer."""
    encode = encode_sources if is_seq2seq(config) else encode_prompts
    return encode(prompts, tokenizer)


def _of_texts(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> list[Prompt]:
    pairs = zip(encoded_prompts(config, texts, tokenizer), texts, strict=True)
    return [Prompt(ids, text) for ids, text in pairs]


def _of_conversations(
    conversations: Sequence[Messages], tokenizer: PreTrainedTokenizerBase
) -> list[Prompt]:
    if not tokenizer.chat_template:
        raise DataError("chat_template", NO_CHAT_TEMPLATE)
    texts = [_rendered(turns, n, tokenizer) for n, turns in enumerate(conversations, 1)]
    # The template has written all special tokens: another begin-of-text token would be one too many.
    encoded: Any = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [Prompt(*parts) for parts in zip(encoded, texts, conversations, strict=True)]


def _rendered(messages: Messages, number: int, tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        text: Any = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except TEMPLATE_ERRORS as error:
        raise InputError(
            f"data: row {number}, `messages`: {error or type(error).__name__}"
        ) from error
    return text
