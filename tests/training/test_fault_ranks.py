"""What goes wrong on one of two processes ends, or is heeded, on both of them alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from llmkd.training.checkpoints import checkpoint_steps
from llmkd.training.checksums import damage

STAGE = {
    "kind": "train",
    "student": {
        "kind": "scratch",
        "config": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
                   "num_hidden_layers": 1, "num_attention_heads": 2},
    },
    "data": {"kind": "task", "digits": 2, "num_examples": 100},
    "losses": [{"kind": "cross_entropy"}],
    "trainer": {
        "max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2, "logging_steps": 1, "save_steps": 2, "save_total_limit": 9,
    },
}  # fmt: skip
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
    (folder / "stage.json").write_text(json.dumps(STAGE))
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


FULL_DISK = """
import os, resource, sys
def lower(event, arguments):
    if event in ("open", "os.mkdir") and str(arguments[0]).endswith(".staging/checkpoint-4"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
if os.environ.get("RANK") == "0":
    sys.addaudithook(lower)
"""


def test_a_disk_that_is_full_for_one_rank_ends_both_with_one_message(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FULL_DISK)
    recipe = tmp_path / "one.yaml"
    recipe.write_text(yaml.safe_dump({"name": "one", **STAGE}))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = ["-m", "llmkd", "train", recipe, f"output_dir={tmp_path}/run"]
    done = launch(*command, PYTHONPATH=path.rstrip(os.pathsep))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "ulimit -f" in line]
    assert line.endswith("make room there, and the same command goes on from checkpoint-2")
    assert "another process" not in done.stderr
    assert "llmkd/training/running.py" not in done.stderr, "no traceback but the launcher's own"
    checkpoints = tmp_path / "run" / "stages" / "train" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-2"]
    assert damage(checkpoints / "checkpoint-2") is None
