"""The texts on which importance is measured: rows as a train stage reads them."""

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.data.collate import Collator
from llmkd.data.prepare import prepare
from llmkd.errors import InputError
from llmkd.models.positions import check_positions
from llmkd.progress import Progress
from llmkd.pruning.fields import too_few_rows
from llmkd.recipe.data import Classification
from llmkd.recipe.pruning import PruneStage


@dataclass(frozen=True)
class Calibration:
    """The calibration set.

    Args:
        batches: Rows of like length together, padded on the right.
        num_truncated: Rows that were cut to `data.max_length`.
    """

    batches: list[dict[str, Tensor]]
    num_truncated: int


def read_calibration(
    stage: PruneStage,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    progress: Progress,
) -> Calibration:
    """Reads and tokenizes the rows of a prune stage.

    Args:
        stage: Has `data`; its references to other stages are already paths.
        model: What is to read them.
        tokenizer: The model's.
        seed: Decides which rows are drawn.
        progress: Called with (done, total) rows while they are tokenized.

    Raises:
        InputError: Rows that cannot be used, fewer than asked for, or longer than the model reads.
    """
    rows = drawn_rows(stage, model, tokenizer, seed=seed, progress=progress)
    if len(rows) < stage.num_examples:
        raise InputError(f"num_examples: {too_few_rows(len(rows), stage.num_examples)}")
    return Calibration(
        batched(rows, tokenizer, stage.batch_size), sum(row["num_cut"] > 0 for row in rows)
    )


def drawn_rows(
    stage: PruneStage,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    progress: Progress,
    num_skipped: int = 0,
) -> list[dict[str, Any]]:
    """Some rows at random, for a data set may be sorted: `num_examples`, or fewer where it has fewer.

    Args:
        stage: As of `read_calibration`, as are `model`, `tokenizer`, `seed` and `progress`.
        model: As there.
        tokenizer: As there.
        seed: As there.
        progress: As there.
        num_skipped: Rows that are drawn before these, and left to others.
    """
    assert stage.data is not None
    assert not isinstance(stage.data, Classification)
    data = prepare(stage.data, tokenizer, seed=seed, progress=progress)
    check_positions(model, data.longest, "data.max_length")
    assert isinstance(data.dataset, datasets.Dataset), "neither packed nor a stream"
    order = np.random.default_rng(seed).permutation(len(data.dataset))
    chosen = order[num_skipped : num_skipped + stage.num_examples]
    return data.dataset.select(np.sort(chosen)).to_list()


def batched(
    rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> list[dict[str, Tensor]]:
    """Rows of like length together, which need little padding."""
    rows = sorted(rows, key=lambda row: row["length"])
    pad: Any = tokenizer.pad_token_id or 0
    starts, collate = range(0, len(rows), batch_size), Collator(pad)
    return [collate(rows[start : start + batch_size]) for start in starts]
