"""How the data is read and put in batches for each kind of model."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from llmkd.data.collate import Collator
from llmkd.data.prepare import Tokenizing
from llmkd.data.seq2seq import Seq2SeqCollator, Seq2SeqTokenize
from llmkd.data.tokenize import Tokenize
from llmkd.models.kinds import decoder_start_token_id


def tokenizing_for(config: PreTrainedConfig, name: str) -> Tokenizing:
    """What makes examples of rows.

    Args:
        config: The model's.
        name: What a message calls it.

    Raises:
        InputError: A seq2seq model that does not say what its decoder begins with.
    """
    start = decoder_start_token_id(config, name)
    return Tokenize if start is None else partial(Seq2SeqTokenize, decoder_start_token_id=start)


def collator_for(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, *, is_flat: bool = False
) -> Callable[[list[Any]], dict[str, Tensor]]:
    """What makes batches of examples.

    Args:
        config: The model's.
        tokenizer: Its padding token is taken.
        is_flat: As for `Collator`.
    """
    # Padding is masked, so without a token of its own any id will do.
    pad: Any = tokenizer.pad_token_id or 0
    start = decoder_start_token_id(config, "student")
    return Collator(pad, is_flat=is_flat) if start is None else Seq2SeqCollator(pad, start)
