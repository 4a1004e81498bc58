"""Models and tokenizers, as a recipe names them."""

import difflib
from typing import Any, get_args

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from llmkd.data.labels import has_classifier_head
from llmkd.errors import InputError
from llmkd.models.adapted import merged
from llmkd.models.agreement import NO_LANGUAGE_MODEL
from llmkd.models.kinds import auto_class, is_seq2seq, special_token_ids
from llmkd.models.quantized import quantization
from llmkd.models.refusals import LOAD_ERRORS, not_loadable, refuse_kernel, refuse_pickles
from llmkd.models.vocabulary import shared_vocab_size
from llmkd.recipe.models import Dtype, InProcessTeacher, NamedModel, PretrainedModel, ScratchStudent

UNLISTED_CONFIG_FIELDS = ("rope_theta", "rope_scaling", "head_dim", "decoder_start_token_id")
"""Fields that transformers reads, though not every configuration lists them."""

# Loading and saving shards takes moments, and llmkd has its own progress bars.
disable_progress_bar()


def load_model(source: PretrainedModel) -> PreTrainedModel:
    """A language model from a folder or the hub, causal or seq2seq as its configuration says.

    Its adapter, where it has one, is merged into its weights.

    Raises:
        InputError: Nothing loadable is there, or a classifier, which would get a random head.
    """
    config = config_of(source)
    refuse_pickles(source)
    if has_classifier_head(config.to_dict()):
        raise InputError(f"{source.model_name_or_path}: {NO_LANGUAGE_MODEL}")
    try:
        model = auto_class(config).from_pretrained(
            source.model_name_or_path,
            revision=source.revision,
            dtype=dtype_of(source),
            **rules_of(source),
            **attention_of(source.attn_implementation),
        )
    except LOAD_ERRORS as error:
        raise not_loadable("model", source.model_name_or_path, error) from error
    return (
        model if source.adapter_name_or_path is None else merged(model, source.adapter_name_or_path)
    )


def config_of(source: NamedModel) -> PretrainedConfig:
    """The configuration of a model, without its weights.

    Raises:
        InputError: Nothing loadable is there, or it names code of the hub.
    """
    try:
        config = AutoConfig.from_pretrained(
            source.model_name_or_path,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
        )
    except LOAD_ERRORS as error:
        raise not_loadable("model", source.model_name_or_path, error) from error
    refuse_kernel(source, config)
    return config


def tokenizer_of(source: NamedModel) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a padding token.

    Raises:
        InputError: Nothing loadable is there.
    """
    return load_tokenizer(
        source.model_name_or_path, source.revision, trust_remote_code=source.trust_remote_code
    )


def load_tokenizer(
    name_or_path: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or the hub, with a padding token.

    Raises:
        InputError: Nothing loadable is there.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name_or_path, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise not_loadable("tokenizer", name_or_path, error) from error
    if tokenizer.pad_token_id is None:
        # Padding is masked wherever it stands, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_from_scratch(
    source: ScratchStudent,
    tokenizer: PreTrainedTokenizerBase,
    *,
    auto: Any = None,
    **more: Any,
) -> PreTrainedModel:
    """A model of the given shape with random weights, from torch's global random state.

    Args:
        source: The shape.
        tokenizer: Gives the vocabulary and the special tokens.
        auto: The class of transformers that builds a classifier; None takes a language model's.
        **more: Further fields of the configuration.

    Raises:
        InputError: `config` is no configuration of a known architecture of that kind.
    """
    try:
        _check_fields(source.config)
        ids = special_token_ids(source.config["model_type"], tokenizer)
        ids["vocab_size"] = shared_vocab_size(tokenizer)
        config = AutoConfig.for_model(**{**ids, **source.config, **more})
        if auto is not None and is_seq2seq(config):
            raise ValueError(
                f"{config.model_type} has an encoder and a decoder; a classifier has one"
            )
        auto = auto or auto_class(config)
        return auto.from_config(config, **attention_of(source.attn_implementation))
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


def dtype_of(source: PretrainedModel) -> Any:
    """The type of the weights, as transformers takes it."""
    return source.dtype if source.dtype == "auto" else getattr(torch, source.dtype)


def dtype_name(source: PretrainedModel) -> Dtype:
    """The type that the weights get, by name: of `auto` the checkpoint's own, where it says which.

    For vLLM, whose own `auto` halves the numbers of a float32 checkpoint.

    Raises:
        InputError: Nothing loadable is there.
    """
    if source.dtype != "auto":
        return source.dtype
    own = str(config_of(source).dtype).removeprefix("torch.")
    return next((name for name in get_args(Dtype) if name == own), "auto")


def rules_of(source: PretrainedModel) -> dict[str, Any]:
    """What may be loaded beside tensors, as transformers takes it: nothing, unless asked; and how."""
    bits = source.quantization if isinstance(source, InProcessTeacher) else None
    return {
        **({} if bits is None else {"quantization_config": quantization(bits, dtype_of(source))}),
        "trust_remote_code": source.trust_remote_code,
        # None takes them where they are, and otherwise pickled ones, of which tensors alone are read.
        "use_safetensors": source.use_safetensors or None,
    }


def attention_of(implementation: str | None) -> dict[str, str]:
    """The argument that chooses an attention implementation, where one is chosen."""
    return {} if implementation is None else {"attn_implementation": implementation}
