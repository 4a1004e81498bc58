"""kill -9 in the middle of a prune stage and of a merge stage, and the same command again."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

RECIPE = """\
name: smaller
stages:
  pruned:
    kind: prune
    model: {model_name_or_path: ./model}
    data: {dataset_name: rows.jsonl}
    num_examples: 40
    batch_size: 1
    depth: {remove_layers: 2}
    width: {intermediate_size: 500}
  merged:
    kind: merge
    models: [stage:pruned, stage:pruned]
    method: {kind: slerp, weight: 0.3}
    max_shard_size: 1MB
"""
NUM_TRIES = 6


def start(folder, output):
    command = [sys.executable, "-m", "llmkd", "train", "recipe.yaml", f"output_dir={output}"]
    # A group of its own, so that the stage's process dies with its parent.
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True
    )


def kill_when(is_time, process):
    """Kills the whole group at a moment; False where it ended before that."""
    deadline = time.monotonic() + 300
    while not is_time():
        if process.poll() is not None:
            assert process.returncode == 0
            return False
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def made(stage):
    """The bytes of all that a stage makes."""
    files = [path for path in (stage / "model").rglob("*") if path.is_file()]
    files += stage.glob("pruning.json")
    return {str(path.relative_to(stage)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pruned", "merged"])
def test_after_any_kill_the_same_command_gives_the_bytes_of_an_undisturbed_run(
    tmp_path, tokenizer, tiny_llama, name
):
    tiny_llama(tokenizer, hidden_size=256, num_hidden_layers=6).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = "".join(json.dumps({"text": f"{i}+{i % 9}={i + i % 9};"}) + "\n" for i in range(50))
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    begun = time.monotonic()
    assert start(tmp_path, "run").wait() == 0
    duration = time.monotonic() - begun
    # Its place is in model cards, so the other one gets the same.
    (tmp_path / "run").rename(tmp_path / "whole")
    expected = {stage: made(tmp_path / "whole/stages" / stage) for stage in ("pruned", "merged")}
    stage = tmp_path / "run/stages" / name
    staged = stage / (".model" if name == "pruned" else ".model.staging")
    moments = random.Random(7)
    num_killed = 0
    for number in range(NUM_TRIES):
        # Half of them at any moment, half while it writes.
        num_files = moments.randrange(len(expected[name]))
        end = time.monotonic() + moments.uniform(0, duration)

        def is_time(is_writing=number % 2, num_files=num_files, end=end):
            if is_writing:
                return staged.is_dir() and len(list(staged.iterdir())) >= num_files
            return time.monotonic() > end

        if kill_when(is_time, start(tmp_path, "run")):
            num_killed += 1
        else:  # Too late, as may be.
            shutil.rmtree(tmp_path / "run")
        # What is there under its name is whole.
        if (stage / "model").exists():
            found = made(stage)
            assert found == {key: expected[name][key] for key in found}
            assert {key for key in expected[name] if key.startswith("model/")} <= found.keys()
    assert num_killed >= NUM_TRIES // 3
    assert start(tmp_path, "run").wait() == 0
    for one in ("pruned", "merged"):
        folder = tmp_path / "run/stages" / one
        assert made(folder) == expected[one]
        undisturbed = sorted(path.name for path in (tmp_path / "whole/stages" / one).iterdir())
        assert sorted(path.name for path in folder.iterdir()) == undisturbed
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.name != ".lock"]
