"""Memory that runs out, and a stage's process that is killed: exit status 1, and what to change."""

import os
import signal
from pathlib import Path

import pytest

# An embedding of 720 TB: more than a process can address, so no machine hands it out.
HUGE = """
name: huge
kind: train
student:
  kind: scratch
  config: {model_type: llama, hidden_size: 10000000000000, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 2}
data: {kind: task, digits: 1, num_examples: 8}
losses: [{kind: cross_entropy}]
trainer: {max_steps: 2, per_device_train_batch_size: 4, gradient_accumulation_steps: 3}
"""


def test_memory_that_runs_out_is_one_message_with_the_keys_to_change(llmkd):
    (llmkd.folder / "huge.yaml").write_text(HUGE)
    _, err = llmkd.run("train", "huge.yaml", status=1)
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if "out of memory" in line]
    assert "can't allocate memory: you tried to allocate 720000000000000 bytes" in line
    halved = "per_device_train_batch_size: 2 with trainer.gradient_accumulation_steps: 6"
    assert halved in line
    assert "--overwrite" in line
    _, err = llmkd.run("train", "huge.yaml", "--debug", status=1)
    assert "Traceback" in err


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the child in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_stage_that_is_killed_says_by_what_and_the_command_goes_on(llmkd, recipe, number):
    checkpoint = "runs/tiny/stages/teacher/checkpoints/checkpoint-2"
    process = llmkd.start_until(checkpoint, "train", recipe)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(children), number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert f"stage teacher was killed by signal {number.value} ({number.name})" in err
    assert "the same command again goes on from checkpoint-" in err
    assert ("memory runs out" in err) == (number == signal.SIGKILL)
    assert ("trainer.per_device_train_batch_size: 2" in err) == (number == signal.SIGKILL)
