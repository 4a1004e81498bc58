"""A DataLoader's workers heed a SIGTERM of their training, and nobody else's."""

import multiprocessing
import subprocess

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from llmkd.training.finite_steps import FiniteSteps
from llmkd.training.workers import ended_by_parent_only


def test_a_worker_ends_when_its_training_says_so_and_only_then():
    loader = DataLoader(range(100), num_workers=1)
    rows = iter(ended_by_parent_only(loader))
    next(rows)
    (worker,) = rows._workers
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert [int(row) for row in rows] == list(range(1, 100))
    rows = iter(loader)
    next(rows)
    (worker,) = rows._workers
    worker.terminate()
    worker.join(timeout=20)
    assert worker.exitcode == 0


@pytest.mark.parametrize("which", ["train", "eval"])
def test_a_trainers_own_loaders_are_such(which, tmp_path):
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, dataloader_num_workers=1, remove_unused_columns=False
    )
    rows = [{"number": torch.tensor(i)} for i in range(40)]
    trainer = FiniteSteps(
        model=torch.nn.Linear(1, 1), args=arguments, train_dataset=rows, eval_dataset=rows
    )
    loader = getattr(trainer, f"get_{which}_dataloader")()
    batches = iter(loader)
    seen = [*next(batches)["number"].tolist()]
    (child,) = multiprocessing.active_children()
    subprocess.run(["kill", "-TERM", str(child.pid)], check=True)
    seen += [number for batch in batches for number in batch["number"].tolist()]
    assert sorted(seen) == list(range(40))
