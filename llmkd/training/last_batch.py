"""The last batch of an epoch: rows that only fill it up are not trained on.

Where the rows are no multiple of what all processes take at once, accelerate begins again with the
first ones, so that every process has as many batches. Trained on, they would count twice, and other
numbers of processes would learn something else.
"""

import torch
from torch import Tensor

from llmkd.data.rationale import PART_IDS
from llmkd.losses.divergences import IGNORED_ID
from llmkd.objective import trained
from llmkd.teachers.captured import PREFIX


def num_own(num_rows: int, batch_size: int, num_processes: int, process: int) -> int:
    """How many rows of a process's last batch are there for the first time.

    Args:
        num_rows: Of the data set.
        batch_size: Rows of a batch of one process.
        num_processes: That share the rows: each takes a batch in turn.
        process: Which of them.
    """
    left = num_rows % (batch_size * num_processes)
    return batch_size if left == 0 else min(batch_size, max(0, left - process * batch_size))


def without_repeats(batch: dict[str, Tensor], num_rows: int) -> dict[str, Tensor]:
    """A batch with targets, and a stored teacher's answers, for its first rows only.

    The numbers that a regression is to give cannot be masked, nor can rows be told apart that flash
    attention has in one: those batches stay as they are.

    Args:
        batch: As `llmkd.data.collate` makes it.
        num_rows: So many; a row with two parts counts once.
    """
    targets = batch["target_ids"]
    is_flat = len(targets) == 1 and "position_ids" in batch
    if targets.is_floating_point() or (is_flat and num_rows > 0):
        return batch
    num_sequences = _num_sequences(batch, num_rows)
    targets = targets.clone()
    targets[num_sequences:] = IGNORED_ID
    kept = int(trained(targets).sum())
    captured = {name: x[:kept] for name, x in batch.items() if name.startswith(PREFIX)}
    return batch | captured | {"target_ids": targets}


def _num_sequences(batch: dict[str, Tensor], num_rows: int) -> int:
    if PART_IDS not in batch:
        return num_rows
    parts = batch[PART_IDS][:, 0]
    # A row's sequences stand side by side, in the order of their parts.
    begins = torch.cat([parts.new_ones(1, dtype=torch.bool), parts[1:] <= parts[:-1]])
    return int((begins.cumsum(0) <= num_rows).sum())
