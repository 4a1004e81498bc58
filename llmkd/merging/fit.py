"""Whether models can be merged: one architecture, one tokenizer, the same tensors."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig

from llmkd.errors import InputError
from llmkd.merging.agreement import ALIKE, different_tokens
from llmkd.merging.checkpoint import Checkpoint
from llmkd.models.load import config_of, load_tokenizer
from llmkd.recipe.models import PretrainedModel


def fitted(models: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The models with the tensors that they share: those that are tied to others are left out.

    Args:
        models: At least one; the others are held against the first.

    Raises:
        InputError: They differ in architecture, tokenizer, or the names or shapes of their tensors.
    """
    configs = [_config(model) for model in models]
    alike = [_alike(config) for config in configs]
    for model, fields in zip(models[1:], alike[1:], strict=True):
        _check_architecture(models[0], model, alike[0], fields)
    _check_tokenizers(models)
    whole = [_without_tied(model, config) for model, config in zip(models, configs, strict=True)]
    for model in whole[1:]:
        _check_tensors(whole[0], model)
    return whole


def _config(model: Checkpoint) -> PreTrainedConfig:
    config = config_of(PretrainedModel(model_name_or_path=str(model.folder)))
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{model.key}: {model.name}: is quantized, and quantized weights cannot be averaged; "
            "write the model in bfloat16, float16 or float32"
        )
    return config


def _alike(config: PreTrainedConfig) -> dict[str, Any]:
    """What must be the same, by its name in the configuration."""
    text = config.get_text_config()
    return {name: getattr(config, name, getattr(text, name, None)) for name in ALIKE}


def _check_architecture(
    first: Checkpoint, model: Checkpoint, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    for name in ALIKE:
        if ours[name] != theirs[name]:
            raise InputError(
                f"{model.key}: {model.name} is of another architecture than {first.key} "
                f"({first.name}): {name} is {theirs[name]} and {ours[name]}; merge models of one shape, "
                "such as two that were trained from the same one"
            )


def _check_tokenizers(models: Sequence[Checkpoint]) -> None:
    first, *others = models
    vocabulary = load_tokenizer(str(first.folder)).get_vocab()
    for model in others:
        if model.folder == first.folder:
            continue
        theirs = load_tokenizer(str(model.folder)).get_vocab()
        if problem := different_tokens(vocabulary, theirs):
            raise InputError(f"{model.key}: {model.name}: {problem}")


def _without_tied(model: Checkpoint, config: PreTrainedConfig) -> Checkpoint:
    """Without the copies that loading makes of other tensors, such as of the embedding as a head.

    Files may hold such a copy or not. One that differs is none: transformers takes it for a tensor of
    its own, whatever the configuration says.
    """
    if not config.get_text_config().tie_word_embeddings:
        return model
    copies = {
        name: source
        for pattern, source in _tied(config).items()
        for name in model.headers
        if re.fullmatch(pattern, name) and source in model.headers
    }
    for name, source in copies.items():
        if not torch.equal(model.read(name), model.read(source)):
            raise InputError(
                f"{model.key}: {model.name}: {name} differs from {source}, to which its configuration "
                "ties it; write tie_word_embeddings: false there, or name an adapter that leaves both "
                "alone"
            )
    return model.without(copies.keys())


def _tied(config: PreTrainedConfig) -> dict[str, str]:
    """Each tensor that loading makes of another one, as a pattern, and that one."""
    architecture = getattr(transformers, (config.architectures or [""])[0], None)
    return getattr(architecture, "_tied_weights_keys", None) or {}


def _check_tensors(first: Checkpoint, model: Checkpoint) -> None:
    for one, other in ((first, model), (model, first)):
        missing = sorted(one.headers.keys() - other.headers.keys())
        if missing:
            raise InputError(
                f"{other.key}: {other.name} has no tensor {missing[0]}, which {one.key} ({one.name}) "
                f"has ({len(missing)} in all); merge models of one shape"
            )
    for name, header in first.headers.items():
        shape = model.headers[name].shape
        if shape != header.shape:
            raise InputError(
                f"{model.key}: {model.name}: {name} has shape {list(shape)}, and in {first.key} "
                f"({first.name}) shape {list(header.shape)}; merge models of one shape"
            )
