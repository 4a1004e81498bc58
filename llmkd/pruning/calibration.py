"""The texts on which importance is measured: rows as a train stage reads them."""

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.data.collate import Collator
from llmkd.data.prepare import TrainingData, prepare
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
    assert stage.data is not None
    assert not isinstance(stage.data, Classification)
    data = prepare(stage.data, tokenizer, seed=seed, progress=progress)
    check_positions(model, data.longest, "data.max_length")
    rows = _drawn(data, stage.num_examples, seed)
    if len(rows) < stage.num_examples:
        raise InputError(f"num_examples: {too_few_rows(len(rows), stage.num_examples)}")
    # Rows of like length together need little padding.
    rows.sort(key=lambda row: row["length"])
    pad: Any = tokenizer.pad_token_id or 0
    starts, collate = range(0, len(rows), stage.batch_size), Collator(pad)
    batches = [collate(rows[start : start + stage.batch_size]) for start in starts]
    return Calibration(batches, sum(row["num_cut"] > 0 for row in rows))


def _drawn(data: TrainingData, num_rows: int, seed: int) -> list[dict[str, Any]]:
    """So many rows at random, for a data set may be sorted."""
    assert isinstance(data.dataset, datasets.Dataset), "neither packed nor a stream"
    order = np.random.default_rng(seed).permutation(len(data.dataset))
    return data.dataset.select(np.sort(order[:num_rows])).to_list()
