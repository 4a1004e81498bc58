"""What each number of layers less would cost, measured without cutting the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from llmkd.evaluation.perplexity import inputs_of, row_losses
from llmkd.evaluation.reliability import Reliability
from llmkd.evaluation.statistics import bootstrap_ratio
from llmkd.losses.divergences import IGNORED_ID
from llmkd.progress import Progress
from llmkd.pruning.bypass import bypassed
from llmkd.pruning.choose import layers_to_remove
from llmkd.pruning.fields import fields_after
from llmkd.pruning.importance import Importances
from llmkd.pruning.sizes import size_of
from llmkd.recipe.pruning import DepthPruning

IMPORTANCES: tuple[str, ...] = get_args(DepthPruning.model_fields["importance"].annotation)
Batches = Sequence[dict[str, Tensor]]


@dataclass(frozen=True)
class HeldOut:
    """Rows that a model is measured on.

    Args:
        batches: With `target_ids`, as a train stage reads them.
        counts: Of each row, the tokens that are predicted.
    """

    batches: Batches
    counts: list[int]

    @staticmethod
    def of(batches: Batches) -> "HeldOut":
        """Counts the rows' tokens."""
        counts = [int(n) for batch in batches for n in (batch["target_ids"] != IGNORED_ID).sum(1)]
        return HeldOut(batches, counts)


def survey(
    model: PreTrainedModel,
    importances: Importances,
    held_out: HeldOut,
    depth: DepthPruning,
    *,
    most: int,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Measures the model without 0, 1, ..., `most` of its layers.

    Args:
        model: In evaluation mode.
        importances: Of its layers, on other rows.
        held_out: What perplexity is measured on.
        depth: Says which layers are protected.
        most: So many are not.
        seed: Of the intervals.
        progress: Called with (done, total) batches.

    Returns:
        For each number of layers: parameters, FLOPs per token, and by each importance the layers that
        go, with the perplexity of what is left, in nats to the power of e, and its 95 % interval.
    """
    chosen = {
        (n, importance): _chosen(depth, n, importance, importances)
        for n in range(most + 1)
        for importance in IMPORTANCES
    }
    perplexities: dict[tuple[int, ...], dict[str, float]] = {}
    wanted = list(dict.fromkeys(chosen.values()))
    for index, layers in enumerate(wanted):
        done, total = index * len(held_out.batches), len(wanted) * len(held_out.batches)
        with bypassed(model, layers):
            losses = _losses(
                model, held_out, lambda n, done=done, total=total: progress(done + n, total)
            )
        perplexities[layers] = _perplexity(losses, held_out.counts, seed)
    return [
        {
            "num_removed": n,
            **_sizes(model, n),
            "choices": [
                {"importance": importance, "layers": list(layers), **perplexities[layers]}
                for importance in IMPORTANCES
                for layers in [chosen[n, importance]]
            ],
        }
        for n in range(most + 1)
    ]


def _chosen(
    depth: DepthPruning, num_removed: int, importance: str, importances: Importances
) -> tuple[int, ...]:
    if num_removed == 0:
        return ()
    update = {"remove_layers": num_removed, "layers": None, "importance": importance}
    return tuple(layers_to_remove(depth.model_copy(update=update), importances))


def _losses(model: PreTrainedModel, held_out: HeldOut, moved: Callable[[int], None]) -> list[float]:
    """The summed loss of each row, in nats."""
    found: list[float] = []
    with torch.inference_mode():
        for number, batch in enumerate(held_out.batches, 1):
            found += row_losses(model, inputs_of(dict(batch), model), Reliability())
            moved(number)
    return found


def _perplexity(losses: list[float], counts: list[int], seed: int) -> dict[str, float]:
    with np.errstate(over="ignore"):
        found = bootstrap_ratio(losses, counts, seed=seed).mapped(np.exp).interval
    return {"perplexity": found.value, "ci_low": found.low, "ci_high": found.high}


def _sizes(model: PreTrainedModel, num_removed: int) -> dict[str, int | float]:
    """Which layers go makes no difference."""
    fields = model.config.to_dict()
    fields |= fields_after(fields, removed=range(num_removed))
    return vars(size_of(AutoConfig.for_model(**fields)))
