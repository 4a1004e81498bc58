"""Which layers, channels and head groups go, by their importance."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmkd.pruning.importance import Importances
from llmkd.recipe.pruning import DepthPruning, WidthPruning


@dataclass(frozen=True)
class Cuts:
    """What is to be cut out of a model.

    Args:
        layers: Those that go, in order.
        kept_channels: Of each layer of the whole model; None keeps all.
        kept_head_groups: Of each layer of the whole model; None keeps all.
    """

    layers: list[int]
    kept_channels: Int[Tensor, "L C"] | None = None
    kept_head_groups: Int[Tensor, "L G"] | None = None


def choose(
    depth: DepthPruning | None, width: WidthPruning | None, importances: Importances | None
) -> Cuts:
    """What matters least, down to the sizes asked for.

    Everything is chosen by the importances of the whole model: layers go first, and channels and heads
    out of those that are left.

    Args:
        depth: Fits the model, as `width` does; see `llmkd.pruning.fields.size_problems`.
        width: None keeps widths.
        importances: Needed unless `depth` names the layers and there is no `width`.
    """
    layers = [] if depth is None else layers_to_remove(depth, importances)
    if width is None:
        return Cuts(layers)
    assert importances is not None
    channels, groups = width.intermediate_size, width.num_key_value_heads
    return Cuts(
        layers,
        None if channels is None else most_important(importances.channels, channels),
        None if groups is None else most_important(importances.head_groups, groups),
    )


def layers_to_remove(depth: DepthPruning, importances: Importances | None) -> list[int]:
    """The layers that go, in order.

    Args:
        depth: Fits the model; see `llmkd.pruning.fields.size_problems`.
        importances: Needed unless `depth` names the layers.
    """
    if depth.layers is not None:
        return sorted(depth.layers)
    assert importances is not None
    assert depth.remove_layers is not None
    first, num_removed = depth.protect_first, depth.remove_layers
    end = len(importances.block_influence) - depth.protect_last
    if depth.importance == "block_influence":
        influence = importances.block_influence.tolist()
        return sorted(sorted(range(first, end), key=influence.__getitem__)[:num_removed])
    distances = importances.of_blocks(num_removed)
    start = min(range(first, end - num_removed + 1), key=distances.__getitem__)
    return list(range(start, start + num_removed))


def most_important(importance: Float[Tensor, "L N"], num_kept: int) -> Int[Tensor, "L K"]:
    """The indices of the largest values of each layer, in order; of equal ones the first."""
    order = torch.sort(importance, dim=1, descending=True, stable=True).indices
    return order[:, :num_kept].sort(dim=1).values
