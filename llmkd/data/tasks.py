"""Procedural tasks: their rows and their tokenizers."""

from typing import assert_never

from transformers import PreTrainedTokenizerBase

from llmkd.data import addition, intents
from llmkd.data.words import word_tokenizer
from llmkd.recipe.data import AdditionTask, IntentTask, Task


def make_rows(task: Task, seed: int) -> list[dict[str, str]]:
    """A task's examples: `prompt` and `completion`, or `text` and `label`.

    Raises:
        InputError: The split has fewer than asked for.
    """
    match task:
        case AdditionTask():
            return addition.make_rows(task, seed)
        case IntentTask():
            return intents.make_rows(task, seed)
        case unknown:
            assert_never(unknown)


def build_tokenizer(task: Task) -> PreTrainedTokenizerBase:
    """The tokenizer that a task comes with."""
    match task:
        case AdditionTask():
            return addition.build_tokenizer()
        case IntentTask():
            return word_tokenizer(intents.vocabulary())
        case unknown:
            assert_never(unknown)
