"""Procedural tasks: their rows and their tokenizers."""

from typing import Any, assert_never

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llmkd.data import addition, intents
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


def word_tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """One token per word, framed as BERT's: `[CLS] ... [SEP]`, and `... [SEP]` of a second text.

    Args:
        vocabulary: Word to id, with `[PAD]`, `[UNK]`, `[CLS]` and `[SEP]` among them.
    """
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    special: dict[str, Any] = {
        f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    )
