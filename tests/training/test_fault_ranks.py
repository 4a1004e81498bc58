"""What goes wrong on one of two processes ends, or is heeded, on both of them alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmkd.training.checkpoints import checkpoint_steps

RANKS = Path(__file__).with_name("fault_ranks.py")


def launch(*arguments, **environment):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of `fault_ranks.py`, how its trainings ended on both ranks, and what it said."""
    folder = tmp_path_factory.mktemp("ranks")
    done = launch(RANKS, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    ended = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return folder, {name: (ended[0][name], ended[1][name]) for name in ended[0]}, done.stderr


def test_a_signal_to_one_rank_saves_one_checkpoint_on_both_and_loses_nothing(ran):
    folder, ended, _ = ran
    assert ended["terminated"] == (143, 143)
    assert ended["terminated, resumed"] == ("done", "done")
    assert list(checkpoint_steps(folder / "terminated" / "checkpoints")) == [2, 3, 4, 6]
    ours, whole = weights(folder / "terminated"), weights(folder / "whole")
    assert all(torch.equal(ours[name], whole[name]) for name in whole)
    losses = [[line["loss"] for line in metrics(folder / name)] for name in ("terminated", "whole")]
    assert losses[0] == losses[1]


def test_a_loss_that_is_not_finite_on_one_rank_stops_both_and_is_told_once(ran):
    folder, ended, _ = ran
    said, status = ended["stopped"]
    assert status == 1
    assert said.startswith("step 4: the loss is not finite: the weighted sum is nan (rank 1, micro")
    assert "micro-batch 2 of 2, whose rows begin '" in said
    assert list(checkpoint_steps(folder / "stopped" / "checkpoints")) == [2]


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_by_both(ran):
    folder, ended, err = ran
    assert ended["skipped"] == ("done", "done")
    assert err.count("step 4: the loss is not finite") == 1
    log = metrics(folder)
    assert [line["skipped_steps"] for line in log] == [0, 0, 0, 1, 1, 1]
    # From a checkpoint after it, which holds rank 0's weights, both go on as they did without.
    again = metrics(folder / "skipped")
    assert [line["loss"] for line in again[4:]] == [line["loss"] for line in log[4:]]
    assert again[-1]["skipped_steps"] == 1


def test_a_damaged_checkpoint_is_refused_or_set_aside_by_one_rank_for_both(ran):
    folder, ended, err = ran
    said, status = ended["refused"]
    assert status == 2
    assert "(rng_state_1.pth: has 0 bytes, where " in said
    assert ended["set aside"] == ("done", "done")
    assert err.count("checkpoint-6 is damaged (rng_state_1.pth: ") == 1
    checkpoints = folder / "skipped" / "checkpoints"
    assert (checkpoints / ".checkpoint-6.old-1").is_dir()
    assert list(checkpoint_steps(checkpoints)) == [2, 4, 6]
    assert f"continues from {checkpoints}/checkpoint-4\n" in err
