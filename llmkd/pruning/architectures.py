"""Where each architecture keeps what pruning cuts, and which fields of its configuration tell of it.

This is the only table: an architecture that is not in it is refused. What is not named here stays as
it is: embeddings, head, norms, and Qwen3's `q_norm` and `k_norm`, whose weights all heads share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmkd.errors import InputError


@dataclass(frozen=True)
class Architecture:
    """The names of modules, and of fields of the configuration.

    Args:
        layers: The list of decoder layers, from the model on.
        attention: The attention of a layer, which has a `layer_idx`; the next four are inside it.
        queries: Makes each head's queries: its outputs go by head.
        keys: Makes each key-value head's keys.
        values: Makes each key-value head's values.
        attention_output: Takes what the heads give, in the order of the queries.
        mlp: The feed-forward part of a layer; the next two are inside it.
        mlp_inputs: Have a channel for each output.
        mlp_output: Has a channel for each input.
        fields_by_layer: Fields of the configuration with a list of one value per layer.
        fields_of_first_layers: Fields that count how many of the first layers something holds for.
        is_head_divisor: Whether its configuration wants `hidden_size` to be a multiple of
            `num_attention_heads`, even where `head_dim` is written.
        is_head_dim_derived: Whether vLLM takes the width of a head for `hidden_size` divided by
            `num_attention_heads`, whatever `head_dim` says.
    """

    layers: str = "model.layers"
    attention: str = "self_attn"
    queries: str = "q_proj"
    keys: str = "k_proj"
    values: str = "v_proj"
    attention_output: str = "o_proj"
    mlp: str = "mlp"
    mlp_inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    mlp_output: str = "down_proj"
    fields_by_layer: tuple[str, ...] = ()
    fields_of_first_layers: tuple[str, ...] = ()
    is_head_divisor: bool = False
    is_head_dim_derived: bool = False


_PLAIN = Architecture()
_QWEN = replace(
    _PLAIN, fields_by_layer=("layer_types",), fields_of_first_layers=("max_window_layers",)
)
ARCHITECTURES = {
    "llama": replace(_PLAIN, is_head_divisor=True),
    "mistral": _PLAIN,
    "qwen2": replace(_QWEN, is_head_dim_derived=True),
    "qwen3": _QWEN,
}
"""`model_type` of a configuration to its architecture."""


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a configuration.

    Raises:
        InputError: It is not in the table.
    """
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise InputError(f"model.model_name_or_path: {not_known(model_type)}")
    return ARCHITECTURES[model_type]


def not_known(model_type: object) -> str:
    """What to say of an architecture that is not in the table."""
    return (
        f"{model_type} is no architecture that can be pruned yet, as {', '.join(ARCHITECTURES)} are; "
        "write a model of one of these, or add to ARCHITECTURES in llmkd/pruning/architectures.py the "
        "names of its decoder layers, of the attention and MLP projections inside them, and of the "
        "fields of its configuration that list or count layers"
    )
