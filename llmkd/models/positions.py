"""Sequences that are longer than a model has positions for."""

import sys

from torch import nn
from transformers import PreTrainedModel

from llmkd.errors import InputError
from llmkd.models.kinds import is_seq2seq
from llmkd.progress import say


def check_positions(model: PreTrainedModel, longest: int, key: str) -> None:
    """Refuses sequences that learned positions do not reach; for rotary ones only says so.

    Args:
        model: Its configuration is looked at.
        longest: Tokens that the model reads at once.
        key: The recipe's key that limits them, and whose they are, for the message.

    Raises:
        InputError: The model cannot read that many tokens.
    """
    learned = hard_limit(model)
    limit = learned or getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or longest <= limit:
        return
    if learned is not None:
        raise InputError(
            f"{key}: {longest} tokens are read at once, and the model has {limit} positions; "
            f"write max_length: {limit}"
        )
    say(f"{key}: {longest} tokens are more than the {limit} that the model was made for")


def hard_limit(model: PreTrainedModel) -> int | None:
    """Tokens that learned positions reach; None for rotary ones, which go on."""
    config = model.config.get_text_config()
    if getattr(config, "rope_parameters", None) is not None:
        return None
    limit = getattr(config, "max_position_embeddings", None)
    return None if limit is None else limit - num_skipped(model)


def num_skipped(model: PreTrainedModel) -> int:
    """Positions that are never used: RoBERTa's begin after the padding token's id."""
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0


def room_after(model: PreTrainedModel, longest_prompt: int) -> int:
    """Tokens that may be written; the last one is not read again. Below 1: the prompt is too long.

    A seq2seq model's decoder has as many positions as its encoder, for itself.
    """
    limit = hard_limit(model)
    if limit is None:
        return sys.maxsize
    if is_seq2seq(model.config):
        return limit if longest_prompt <= limit else 0
    return limit - longest_prompt + 1
