"""What a teacher is asked: plain text, or a conversation in its chat template, as token ids."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from llmkd.data.chat import TEMPLATE_ERRORS
from llmkd.data.columns import Need
from llmkd.data.conversations import (
    NO_CHAT_TEMPLATE,
    Messages,
    conversation,
    no_conversations,
    refuse_unused,
)
from llmkd.data.kept_columns import KEPT, names_to_keep
from llmkd.data.prepare import UNCUT
from llmkd.data.prompt_files import read_prompt_file
from llmkd.data.seq2seq import encode_sources
from llmkd.data.sources import Row
from llmkd.data.tokenize import SCHEMA, Example, Tokenize, encode_prompts
from llmkd.errors import DataError, InputError
from llmkd.models.kinds import is_seq2seq
from llmkd.recipe.data import CompletionTask, PromptRows
from llmkd.teacher_data.store.rows import tokens_key

READ_BACK = ("text", "messages", KEPT)
"""The columns of the cache's file that `answered` reads."""


@dataclass(frozen=True)
class Prompt(Example):
    """One thing that a teacher is asked, as token ids, none of which is trained on."""

    text: str
    """What these stand for; of a conversation, with the template's special tokens."""
    messages: str | None = None
    """The conversation as JSON; None of plain text."""
    kept: str | None = None
    """The columns that go along, as JSON; None where there are none."""

    @classmethod
    def of(
        cls,
        input_ids: list[int],
        text: str,
        messages: str | None = None,
        kept: str | None = None,
    ) -> "Prompt":
        """With what follows from the tokens."""
        return cls(input_ids, [], len(input_ids), 0, 0, tokens_key(input_ids), text, messages, kept)


class PromptTokenize(Tokenize):
    """Turns rows of `messages`, or of `prompt`, into what a teacher reads.

    Args:
        tokenizer: The teacher's, with the chat template that is to be used.
        config: The teacher's.
        source: Whose rows they are: the stage's `data`.

    Raises:
        InputError: Rows that no answer can follow, or conversations without a chat template for
            them.
    """

    need: Need = "prompt"
    schema = pa.schema([*SCHEMA, *(pa.field(name, pa.string()) for name in READ_BACK)])

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        source: CompletionTask | PromptRows,
    ):
        super().__init__(tokenizer, UNCUT)
        self.config = config
        self.chats = source if isinstance(source, PromptRows) else None
        self.form = f"prompts{', seq2seq' * is_seq2seq(config)}, {_form(source)}"

    def examples_of(self, rows: list[dict[str, Any]]) -> Iterable[Prompt]:
        """Of each row, in order."""
        conversations = self._conversations(rows)
        kept = [row.get(KEPT) for row in rows]
        if not conversations:
            texts = [row["prompt"] for row in rows]
            encoded = encoded_prompts(self.config, texts, self.tokenizer)
            return map(Prompt.of, encoded, texts, [None] * len(rows), kept)
        texts = [
            _rendered(turns, number, self.tokenizer)
            for number, turns in enumerate(conversations, self.num_rows + 1)
        ]
        # The template has written all special tokens: another begin-of-text token would be one too
        # many.
        encoded: Any = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return map(Prompt.of, encoded, texts, map(json.dumps, conversations), kept)

    def _conversations(self, rows: list[dict[str, Any]]) -> list[Messages]:
        """What each row asks; nothing where they are plain text."""
        if self.chats is None:
            return []
        refuse_unused(rows[0], self.chats)
        numbered = enumerate(rows, self.num_rows + 1)
        found = [conversation(row, number, self.chats) for number, row in numbered]
        conversations = [turns for turns in found if turns is not None]
        if conversations and is_seq2seq(self.config):
            raise DataError("dataset_name", no_conversations(self.chats.dataset_name))
        if conversations and not self.tokenizer.chat_template:
            raise DataError("chat_template", NO_CHAT_TEMPLATE)
        return conversations


def answered(prompt: Mapping[str, Any], completion: str, number: int) -> Row:
    """The row of a data set that has the answer too, whatever tokenizer reads it.

    Args:
        prompt: A row of the cache's file, of which `READ_BACK` is read.
        completion: The answer.
        number: The prompt's own, from 0.
    """
    kept: Row = json.loads(prompt[KEPT] or "{}")
    answer: Row = {"completion": completion, "number": number, **kept}
    if prompt["messages"] is None:
        return {"prompt": prompt["text"], **answer}
    turns: Messages = json.loads(prompt["messages"])
    return {"messages": [*turns, {"role": "assistant", "content": completion}], **answer}


def encoded_prompts(
    config: PreTrainedConfig, prompts: list[str], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Token ids as a model reads them: to go on with, or, of a seq2seq model, to answer."""
    encode = encode_sources if is_seq2seq(config) else encode_prompts
    return encode(prompts, tokenizer)


def _form(source: CompletionTask | PromptRows) -> dict[str, Any]:
    """What the source says of its prompts; the tokenizer has the chat template itself."""
    form: dict[str, Any] = {"keep_columns": names_to_keep(source)}
    if not isinstance(source, PromptRows):
        return form
    file = source.prompt_file
    return form | {
        "prompt_file": None if file is None else read_prompt_file(file).text,
        "apply_chat_template": source.apply_chat_template,
        "system_prompt": source.system_prompt,
        # Of plain text, one that is named is refused.
        "has_own_template": source.chat_template is not None,
    }


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
