"""Models and tokenizers, as a recipe names them."""

import difflib
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from llmkd.errors import InputError
from llmkd.models.kinds import auto_class, special_token_ids
from llmkd.models.vocabulary import shared_vocab_size
from llmkd.recipe.models import PretrainedModel, ScratchStudent

UNLISTED_CONFIG_FIELDS = ("rope_theta", "rope_scaling", "head_dim", "decoder_start_token_id")
"""Fields that transformers reads, though not every configuration lists them."""

# Loading and saving shards takes moments, and llmkd has its own progress bars.
disable_progress_bar()


def load_model(source: PretrainedModel) -> PreTrainedModel:
    """A language model from a folder or the hub, causal or seq2seq as its configuration says.

    Raises:
        InputError: Nothing loadable is there.
    """
    dtype = source.dtype if source.dtype == "auto" else getattr(torch, source.dtype)
    try:
        config = AutoConfig.from_pretrained(source.model_name_or_path, revision=source.revision)
        return auto_class(config).from_pretrained(
            source.model_name_or_path,
            revision=source.revision,
            dtype=dtype,
            **_attention(source.attn_implementation),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_loadable("model", source.model_name_or_path, error) from error


def load_tokenizer(name_or_path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or the hub, with a padding token.

    Raises:
        InputError: Nothing loadable is there.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError) as error:
        raise _not_loadable("tokenizer", name_or_path, error) from error
    if tokenizer.pad_token_id is None:
        # Padding is masked wherever it stands, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_from_scratch(
    source: ScratchStudent, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """A model of the given shape with random weights, from torch's global random state.

    Raises:
        InputError: `config` is no configuration of a known language model.
    """
    try:
        _check_fields(source.config)
        ids = special_token_ids(source.config["model_type"], tokenizer)
        ids["vocab_size"] = shared_vocab_size(tokenizer)
        config = AutoConfig.for_model(**{**ids, **source.config})
        return auto_class(config).from_config(config, **_attention(source.attn_implementation))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"student.config: {error}; write the fields of one transformers configuration, for "
            "example {model_type: llama, hidden_size: 128, num_hidden_layers: 4}"
        ) from error


def _check_fields(fields: dict[str, Any]) -> None:
    # A configuration keeps whatever it is given, so a misspelt size would silently be the default.
    default = AutoConfig.for_model(fields["model_type"])
    known = {*default.to_dict(), *default.attribute_map, *UNLISTED_CONFIG_FIELDS}
    for name in set(fields) - known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{fields['model_type']} has no field {name}{hint}")


def _attention(implementation: str | None) -> dict[str, str]:
    return {} if implementation is None else {"attn_implementation": implementation}


def _not_loadable(what: str, name: str, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(
        f"{name}: no {what} could be loaded ({reason}); write a folder that save_pretrained made, "
        "or a hub name that this machine can reach"
    )
