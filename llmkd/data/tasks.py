"""Procedural tasks: their rows and their tokenizers."""

from typing import assert_never

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

from llmkd.data import addition, chained_sums, intents
from llmkd.data.words import character_tokenizer, language_tokenizer, word_tokenizer
from llmkd.recipe.data import AdditionTask, IntentTask, NamedIntentTask, Task
from llmkd.recipe.procedural import ChainedSumsTask


def make_rows(task: Task | ChainedSumsTask, seed: int) -> list[dict[str, str]]:
    """A task's examples: `prompt` and `completion`, or `text` and `label`.

    Raises:
        InputError: The split has fewer than asked for.
    """
    match task:
        case AdditionTask():
            return addition.make_rows(task, seed)
        case IntentTask():
            return intents.make_rows(task, seed)
        case NamedIntentTask():
            return intents.make_named_rows(task, seed)
        case ChainedSumsTask():
            return chained_sums.make_rows(task, seed)
        case unknown:
            assert_never(unknown)


def build_tokenizer(task: Task | ChainedSumsTask) -> PreTrainedTokenizerBase:
    """The tokenizer that a task comes with."""
    match task:
        case AdditionTask():
            return addition.build_tokenizer()
        case IntentTask():
            return word_tokenizer(intents.vocabulary())
        case NamedIntentTask():
            words = pre_tokenizers.WhitespaceSplit()
            return language_tokenizer(intents.naming_vocabulary(), words)
        case ChainedSumsTask():
            return character_tokenizer(chained_sums.vocabulary())
        case unknown:
            assert_never(unknown)
