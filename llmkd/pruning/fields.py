"""What a configuration says after pruning, and what cannot be pruned off it. No torch."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from llmkd.pruning.architectures import architecture_of
from llmkd.recipe.pruning import DepthPruning, PruneStage, WidthPruning
from llmkd.recipe.yaml_places import Key

SIZES = ("num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")
"""The fields that pruning makes smaller."""


def fields_after(
    config: Mapping[str, Any],
    *,
    removed: Collection[int] = (),
    intermediate_size: int | None = None,
    num_key_value_heads: int | None = None,
) -> dict[str, Any]:
    """The fields of a configuration that pruning changes.

    Args:
        config: With the defaults of its class.
        removed: Layers that go, from 0.
        intermediate_size: MLP channels of each layer that stay; None keeps all.
        num_key_value_heads: Key-value heads of each layer that stay, each with the query heads that
            read it; None keeps all.
    """
    fields: dict[str, Any] = {}
    if removed:
        fields |= _without_layers(config, removed)
    if intermediate_size is not None:
        fields["intermediate_size"] = intermediate_size
    if num_key_value_heads is not None:
        fields |= {
            "num_key_value_heads": num_key_value_heads,
            "num_attention_heads": num_key_value_heads * queries_per_group(config),
            # Unwritten, it would follow from the number of heads, which is another one now.
            "head_dim": head_dim_of(config),
        }
    return fields


def _without_layers(config: Mapping[str, Any], removed: Collection[int]) -> dict[str, Any]:
    architecture = architecture_of(config)
    kept = [layer for layer in range(config["num_hidden_layers"]) if layer not in removed]
    fields: dict[str, Any] = {"num_hidden_layers": len(kept)}
    for name in architecture.fields_by_layer:
        if config.get(name) is not None:
            fields[name] = [config[name][layer] for layer in kept]
    for name in architecture.fields_of_first_layers:
        if config.get(name) is not None:
            fields[name] = sum(layer < config[name] for layer in kept)
    return fields


def num_groups(config: Mapping[str, Any]) -> int:
    """Key-value heads of a layer, each with the query heads that read it."""
    return config.get("num_key_value_heads") or config["num_attention_heads"]


def queries_per_group(config: Mapping[str, Any]) -> int:
    """Query heads that read one key-value head."""
    return config["num_attention_heads"] // num_groups(config)


def head_dim_of(config: Mapping[str, Any]) -> int:
    """The width of one head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def size_problems(config: Mapping[str, Any], stage: PruneStage) -> Iterator[tuple[Key, str]]:
    """Each key of a prune stage that asks for more than a model has, and what to write instead.

    Args:
        config: The model's, with the defaults of its class.
        stage: Its fields fit each other.
    """
    if stage.depth is not None:
        for field, message in _depth_problems(config["num_hidden_layers"], stage.depth):
            yield ("depth", *field), message
    if stage.width is not None:
        for field, message in _width_problems(config, stage.width):
            yield ("width", field), message


def too_few_rows(num_rows: int, num_asked: int) -> str:
    """What to say of a calibration set that is shorter than asked."""
    return (
        f"the calibration set has {num_rows} rows, and {num_asked} are asked for; write num_examples: "
        f"{num_rows}, or data with more rows"
    )


def most_removable(num_layers: int, depth: DepthPruning) -> int:
    """Layers that may go by their importance; below 1 where all are protected."""
    return min(num_layers - depth.protect_first - depth.protect_last, num_layers - 1)


def _depth_problems(num_layers: int, depth: DepthPruning) -> Iterator[tuple[Key, str]]:
    if depth.layers is not None:
        for index, layer in enumerate(depth.layers):
            if layer >= num_layers:
                yield (
                    ("layers", index),
                    f"{layer} is no layer of the model, which has {num_layers}; write one of 0 to "
                    f"{num_layers - 1}",
                )
        if len(set(depth.layers)) >= num_layers:
            yield ("layers",), f"removes all {num_layers} layers; leave one or more out"
    elif depth.remove_layers is not None:
        protected = depth.protect_first + depth.protect_last
        most = most_removable(num_layers, depth)
        if depth.remove_layers > most:
            fewer = [f"write at most {most}"] if most > 0 else []
            ways = [*fewer, "protect fewer" if protected else "leave depth out"]
            yield (
                ("remove_layers",),
                f"{depth.remove_layers} of {num_layers} layers cannot go, as the first "
                f"{depth.protect_first} (protect_first) and the last {depth.protect_last} "
                f"(protect_last) stay, and one at least; {', or '.join(ways)}",
            )


def _width_problems(config: Mapping[str, Any], width: WidthPruning) -> Iterator[tuple[str, str]]:
    sizes = {
        "intermediate_size": (width.intermediate_size, config["intermediate_size"]),
        "num_key_value_heads": (width.num_key_value_heads, num_groups(config)),
    }
    for field, (wanted, has) in sizes.items():
        if wanted is not None and wanted >= has:
            instead = f"write at most {has - 1}, or leave it out" if has > 1 else "leave it out"
            yield field, f"{wanted} is to stay, and the model has {has}; {instead}"
    wanted = width.num_key_value_heads
    if wanted is None or not architecture_of(config).is_head_divisor:
        return
    hidden, each = config["hidden_size"], queries_per_group(config)
    fitting = [str(n) for n in range(1, num_groups(config)) if hidden % (n * each) == 0]
    if wanted < num_groups(config) and str(wanted) not in fitting:
        yield (
            "num_key_value_heads",
            f"{wanted} leave {wanted * each} attention heads, and a {config['model_type']} takes only "
            f"as many as divide its hidden_size of {hidden}; write "
            + (f"one of {', '.join(fitting)}" if fitting else "no num_key_value_heads"),
        )
