"""What kind of language model: a decoder alone (causal), or an encoder and a decoder (seq2seq)."""

from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from llmkd.errors import InputError
from llmkd.models.agreement import different_kinds, different_starts, no_start

TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def is_seq2seq(config: PreTrainedConfig) -> bool:
    """Whether an encoder reads the prompt and a decoder writes, as in T5 and BART."""
    return bool(getattr(config, "is_encoder_decoder", False))


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers that loads and builds such language models."""
    return AutoModelForSeq2SeqLM if is_seq2seq(config) else AutoModelForCausalLM


def special_token_ids(model_type: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A new model's special tokens, where its own configuration would name another tokenizer's.

    A decoder begins with the token that this architecture's do: BART's with end-of-text, T5's with
    padding.
    """
    default = AutoConfig.for_model(model_type)
    own: Any = {name: getattr(tokenizer, name) for name in TOKEN_IDS}
    if not is_seq2seq(default):
        return own
    start = getattr(default, "decoder_start_token_id", None)
    same = [name for name in TOKEN_IDS if start is not None and getattr(default, name) == start]
    own["decoder_start_token_id"] = own[same[0] if same else "pad_token_id"]
    if getattr(default, "forced_eos_token_id", None) is not None:
        own["forced_eos_token_id"] = own["eos_token_id"]
    return own


def decoder_start_token_id(config: PreTrainedConfig, name: str) -> int | None:
    """The token that a seq2seq model's decoder begins with; None of a causal model.

    Args:
        config: The model's.
        name: What the message calls it: `student`, `teacher`, or a folder.

    Raises:
        InputError: A seq2seq model that does not say.
    """
    if not is_seq2seq(config):
        return None
    token = getattr(config, "decoder_start_token_id", None)
    if token is None:
        raise InputError(f"{name}: {no_start(config.model_type)}")
    return token


def check_same_kind(student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
    """Refuses a teacher that cannot read the student's batch.

    Raises:
        InputError: One is seq2seq and the other causal, or their decoders begin with other tokens.
    """
    if problem := different_kinds(is_seq2seq(student), is_seq2seq(teacher)):
        raise InputError(problem)
    ours = decoder_start_token_id(student, "student")
    theirs = decoder_start_token_id(teacher, "teacher")
    if problem := different_starts(ours, theirs):
        raise InputError(problem)
