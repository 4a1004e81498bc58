"""`pruning.json`: what was measured, what was cut out of a model, and what that left."""

from collections.abc import Iterable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig

from llmkd.pruning.choose import Cuts
from llmkd.pruning.fields import SIZES
from llmkd.pruning.importance import Importances
from llmkd.pruning.sizes import size_of

PRUNING = "pruning.json"
"""The file's name in a stage's folder."""


def sizes_in(config: PreTrainedConfig) -> dict[str, int | float]:
    """The fields that pruning makes smaller, parameters and FLOPs per token."""
    return {name: getattr(config, name) for name in SIZES} | vars(size_of(config))


def measured(importances: Importances) -> dict[str, Any]:
    """The importances of layers, as plain data.

    `angular_distances` has a list for each number n of neighbouring layers, from 1: d(l, l + n) by the
    first layer l. The magnitudes of single channels are left out.
    """
    num_layers = len(importances.block_influence)
    return {
        "num_examples": importances.num_examples,
        "num_tokens": importances.num_tokens,
        "angular_distances": [_short(importances.of_blocks(n)) for n in range(1, num_layers + 1)],
        "block_influence": _short(importances.block_influence.tolist()),
        "head_groups": [_short(layer) for layer in importances.head_groups.tolist()],
    }


def removed(cuts: Cuts, importances: Importances | None) -> dict[str, Any]:
    """What went, as plain data.

    Of head groups and channels there is an entry for each layer of the whole model, null for one that
    went as a whole: `removed_head_groups` are their numbers, and `removed_channels` the share of the
    layer's summed magnitude that went with them.
    """
    found: dict[str, Any] = {"removed_layers": cuts.layers}
    if cuts.kept_head_groups is not None and importances is not None:
        everything = set(range(importances.head_groups.shape[1]))
        found["removed_head_groups"] = [
            None if layer in cuts.layers else sorted(everything - set(kept))
            for layer, kept in enumerate(cuts.kept_head_groups.tolist())
        ]
    if cuts.kept_channels is not None and importances is not None:
        shares = _removed_shares(importances.channels, cuts.kept_channels)
        found["removed_channels"] = [
            None if layer in cuts.layers else share for layer, share in enumerate(shares)
        ]
    return found


def _removed_shares(values: Float[Tensor, "L C"], kept: Int[Tensor, "L K"]) -> list[float]:
    stays = values.gather(1, kept).sum(1) / values.sum(1)
    return _short((1 - stays).tolist())


def _short(values: Iterable[float]) -> list[float]:
    """Six digits: more is noise of the calibration set."""
    return [float(f"{value:.6g}") for value in values]
