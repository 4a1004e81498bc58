"""How many prompts a generate stage reads, and how long they are in tokens."""

from llmkd.check.facts import Fact, NotKnownError
from llmkd.check.lengths import (
    MOST_CHARACTERS,
    TOKENS_PER_MESSAGE,
    first,
    text_of,
)
from llmkd.check.rows import read_rows
from llmkd.check.tasks import example_of, first_requests, num_requests, num_sums
from llmkd.check.vocabulary import ADDITION, Tokenizer
from llmkd.data.conversations import (
    NO_CHAT_TEMPLATE,
    Messages,
    conversation,
    no_conversations,
    refuse_unused,
)
from llmkd.errors import DataError
from llmkd.recipe.data import AdditionTask, CompletionTask, NamedIntentTask, PromptRows


def prompt_rows(source: CompletionTask | PromptRows) -> Fact:
    """How many prompts a generate stage reads."""
    if isinstance(source, AdditionTask):
        return num_sums(source)
    if isinstance(source, NamedIntentTask):
        return num_requests(source)
    return first(read_rows(source, "prompt").num_rows, source.num_examples)


def prompt_length(source: CompletionTask | PromptRows, tokenizer: Tokenizer | str) -> Fact:
    """Tokens of the longest prompt that a generate stage reads, by its first rows.

    Raises:
        DataError: Rows that no teacher could answer, or not this one.
        NotKnownError: The tokenizer is not known.
    """
    if isinstance(source, CompletionTask):
        return _of_task(source, tokenizer)
    rows = read_rows(source, "prompt").sample
    if source.prompt_prefix and "prompt" in rows[0]:
        rows = [{**row, "prompt": source.prompt_prefix + row["prompt"]} for row in rows]
    refuse_unused(rows[0], source)
    found = [conversation(row, number, source) for number, row in enumerate(rows, 1)]
    conversations = [messages for messages in found if messages is not None]
    if isinstance(tokenizer, str):
        raise NotKnownError(tokenizer)
    how = f"longest of the first {len(rows)}"
    if not conversations:
        lengths = [_num_tokens(row["prompt"], tokenizer) for row in rows]
        return Fact(max(lengths), "estimate", how)
    _refuse_without_template(source, tokenizer)
    lengths = [_length(messages, tokenizer) for messages in conversations]
    return Fact(
        max(lengths),
        "estimate",
        f"{how}, with about {TOKENS_PER_MESSAGE} tokens of chat template per turn",
    )


def _of_task(task: CompletionTask, tokenizer: Tokenizer | str) -> Fact:
    if isinstance(tokenizer, str):
        raise NotKnownError(tokenizer)
    if isinstance(task, NamedIntentTask):
        lengths = [_num_tokens(row["prompt"], tokenizer) for row in first_requests(task)]
        return Fact(max(lengths), "estimate", f"longest of {len(lengths)} requests")
    length = _num_tokens(example_of(task)[0], tokenizer)
    if tokenizer.name == ADDITION.name:
        return Fact(length, "exact", "every sum has as many")
    return Fact(length, "estimate", "by one sum; others may differ")


def _num_tokens(text: str, tokenizer: Tokenizer) -> int:
    return tokenizer.count(text[:MOST_CHARACTERS], True)


def _length(messages: Messages, tokenizer: Tokenizer) -> int:
    # The turn that is to be answered begins, too.
    around = TOKENS_PER_MESSAGE * (len(messages) + 1)
    return tokenizer.count(text_of(messages)[:MOST_CHARACTERS], False) + around


def _refuse_without_template(source: PromptRows, tokenizer: Tokenizer) -> None:
    if tokenizer.decoder is not None:
        raise DataError("dataset_name", no_conversations(source.dataset_name))
    if source.chat_template is None and not tokenizer.has_chat_template:
        raise DataError("chat_template", NO_CHAT_TEMPLATE)
