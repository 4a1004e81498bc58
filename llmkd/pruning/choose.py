"""Which layers, channels and head groups go, by their importance."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmkd.pruning.importance import Importances
from llmkd.recipe.pruning import DepthPruning


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
