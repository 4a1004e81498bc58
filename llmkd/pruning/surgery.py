"""Cuts layers, channels and heads out of a model, in place; the configuration follows.

What is left computes what the whole model would, with the layers bypassed and the channels and heads
at zero.
"""

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmkd.errors import InputError
from llmkd.models.finite import broken_weight
from llmkd.pruning.architectures import Architecture, architecture_of
from llmkd.pruning.choose import Cuts
from llmkd.pruning.fields import fields_after, head_dim_of, queries_per_group


def check_prunable(model: PreTrainedModel) -> None:
    """Refuses a model that cannot be cut, or whose weights say nothing.

    Raises:
        InputError: Of another architecture, adapted or quantized, or with weights that are not finite.
    """
    names = architecture_of(model.config.to_dict())
    for layer in _layers(model, names):
        for part in (*_attention(layer, names), *_mlp(layer, names)):
            if type(part) is not nn.Linear:
                raise InputError(
                    f"model.model_name_or_path: has a {type(part).__name__} in place of a linear layer, as adapters and "
                    "quantization leave it; merge the adapter into the weights (peft's "
                    "merge_and_unload), or write the model that is not quantized"
                )
    if (name := broken_weight(model)) is not None:
        raise InputError(
            f"model.model_name_or_path: {name} holds values that are not finite; write a checkpoint "
            "from before that, or copy the model anew"
        )


def cut(model: PreTrainedModel, cuts: Cuts) -> None:
    """Cuts all that was chosen."""
    kept = [n for n in range(model.config.num_hidden_layers) if n not in cuts.layers]
    if cuts.layers:
        remove_layers(model, cuts.layers)
    if cuts.kept_channels is not None:
        keep_channels(model, cuts.kept_channels[kept])
    if cuts.kept_head_groups is not None:
        keep_head_groups(model, cuts.kept_head_groups[kept])


def remove_layers(model: PreTrainedModel, removed: Collection[int]) -> None:
    """Takes decoder layers out; those that are left get new places in the key-value cache."""
    names = architecture_of(model.config.to_dict())
    kept = [x for index, x in enumerate(_layers(model, names)) if index not in removed]
    for index, layer in enumerate(kept):
        layer.get_submodule(names.attention).layer_idx = index
    model.set_submodule(names.layers, nn.ModuleList(kept))
    _set_fields(model, removed=removed)


def keep_channels(model: PreTrainedModel, kept: Int[Tensor, "L K"]) -> None:
    """Cuts each layer's MLP to some of its channels.

    Args:
        model: A layer of which has a row in `kept`.
        kept: The channels that stay, in order.
    """
    names = architecture_of(model.config.to_dict())
    for layer, channels in zip(_layers(model, names), kept, strict=True):
        *inputs, output = _mlp(layer, names)
        for linear in inputs:
            _keep_outputs(linear, channels)
        _keep_inputs(output, channels)
        layer.get_submodule(names.mlp).intermediate_size = kept.shape[1]
    _set_fields(model, intermediate_size=kept.shape[1])


def keep_head_groups(model: PreTrainedModel, kept: Int[Tensor, "L K"]) -> None:
    """Cuts each layer's attention to some key-value heads, each with the query heads that read it.

    Args:
        model: A layer of which has a row in `kept`.
        kept: The key-value heads that stay, in order.
    """
    config = model.config.to_dict()
    names, width = architecture_of(config), head_dim_of(config)
    for layer, groups in zip(_layers(model, names), kept, strict=True):
        queries, keys, values, output = _attention(layer, names)
        of_keys, of_queries = (
            _spans(groups, width),
            _spans(groups, width * queries_per_group(config)),
        )
        _keep_outputs(queries, of_queries)
        _keep_outputs(keys, of_keys)
        _keep_outputs(values, of_keys)
        _keep_inputs(output, of_queries)
    _set_fields(model, num_key_value_heads=kept.shape[1])


def _spans(groups: Int[Tensor, " K"], width: int) -> Int[Tensor, " W"]:
    """The indices of what groups of one width hold."""
    return (groups[:, None] * width + torch.arange(width, device=groups.device)).flatten()


def _layers(model: PreTrainedModel, names: Architecture) -> list[Any]:
    layers: Any = model.get_submodule(names.layers)
    return list(layers)


def _attention(layer: nn.Module, names: Architecture) -> list[Any]:
    """Queries, keys, values, output."""
    part = layer.get_submodule(names.attention)
    linears = (names.queries, names.keys, names.values, names.attention_output)
    return [part.get_submodule(name) for name in linears]


def _mlp(layer: nn.Module, names: Architecture) -> list[Any]:
    """The inputs, and last the output."""
    part = layer.get_submodule(names.mlp)
    return [part.get_submodule(name) for name in (*names.mlp_inputs, names.mlp_output)]


def _keep_outputs(linear: nn.Linear, kept: Int[Tensor, " K"]) -> None:
    linear.weight.data = linear.weight.data[kept]
    if linear.bias is not None:
        linear.bias.data = linear.bias.data[kept]
    linear.out_features = len(kept)


def _keep_inputs(linear: nn.Linear, kept: Int[Tensor, " K"]) -> None:
    linear.weight.data = linear.weight.data[:, kept].contiguous()
    linear.in_features = len(kept)


def _set_fields(model: PreTrainedModel, **changes: Any) -> None:
    for name, value in fields_after(model.config.to_dict(), **changes).items():
        setattr(model.config, name, value)
