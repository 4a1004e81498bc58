"""A DataLoader's workers heed a SIGTERM of their training, and nobody else's."""

import subprocess

from torch.utils.data import DataLoader

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
