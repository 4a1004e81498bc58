"""kill -9 of one rank, of all, or of the launcher amid `llmkd train --launch`, and the same command again."""

import contextlib
import itertools
import random
import socket
import subprocess
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

RECIPE = """
name: several
kind: train
student:
  kind: scratch
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
teacher: {model_name_or_path: teacher}
data: {kind: task, digits: 1, num_examples: 30}
losses: [{kind: forward_kl}]
trainer: {max_steps: 21, per_device_train_batch_size: 4, learning_rate: 1e-2, logging_steps: 1, save_steps: 3, save_total_limit: 2, lr_scheduler_type: constant}
"""
STAGE = "stages/train"


@pytest.fixture
def recipe(tmp_path, tokenizer, tiny_llama):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    (tmp_path / "several.yaml").write_text(RECIPE)
    return "several.yaml"


def launched(recipe, engine, output):
    return ["train", recipe, "--launch", engine, "--num-processes", "2", f"output_dir={output}"]


def kill(victim, process):
    """Kills -9 one rank, all ranks, the launcher, or the command itself; False where it has ended."""
    try:
        launchers = psutil.Process(process.pid).children()
        ranks = [rank for launcher in launchers for rank in launcher.children()]
        targets = {
            "one rank": ranks[-1:],
            "all": ranks,
            "launcher": launchers,
            "command": [process],
        }
        for target in targets[victim]:
            target.kill()
        return bool(targets[victim])
    except psutil.NoSuchProcess:
        return False


def ended(process):
    """Waits until the command has ended, and everything that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        out = process.communicate(timeout=120)
        _, alive = psutil.wait_procs(started, timeout=60)
        assert not alive
        return out
    return process.communicate(timeout=120)


def weights(folder):
    return load_file(folder / STAGE / "model/model.safetensors")


def assert_same(ours, reference):
    assert ours.keys() == reference.keys()
    assert all(torch.equal(ours[name], reference[name]) for name in reference)


def test_killed_in_three_ways_it_goes_on_to_the_weights_of_an_undisturbed_run(llmkd, recipe):
    command = launched(recipe, "ddp", "cut")
    for victim, checkpoint in (("one rank", 3), ("all", 6), ("launcher", 12)):
        process = llmkd.start_until(f"cut/{STAGE}/checkpoints/checkpoint-{checkpoint}", *command)
        assert kill(victim, process)
        _, err = ended(process)
        assert process.returncode == 1, err
        assert "killed by signal 9" in err
    _, err = llmkd.run(*command)
    assert "continues from" in err
    llmkd.run(*launched(recipe, "ddp", "whole"))
    assert_same(weights(llmkd.folder / "cut"), weights(llmkd.folder / "whole"))


@pytest.mark.slow
def test_what_every_rank_finds_wrong_is_told_once(llmkd, recipe):
    # Too late for a check, and each finds it by itself.
    arguments = ["trainer.lr_scheduler_type=polynomial", "trainer.lr_scheduler_kwargs={lr_end: 5}"]
    _, err = llmkd.run(*launched(recipe, "ddp", "wrong"), *arguments, status=1)
    assert err.count("lr_end (5) must be smaller than initial lr") == 1
    logs = sorted(path.name for path in (llmkd.folder / "wrong" / STAGE).glob("*.log"))
    assert logs == ["error-rank-1.log", "error.log"]


@pytest.mark.slow
def test_where_one_of_two_machines_is_gone_the_other_ends_too(llmkd, recipe):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = [
        "--num-machines",
        "2",
        "--main-process-ip",
        "127.0.0.1",
        "--main-process-port",
        str(port),
    ]
    command = [
        *launched(recipe, "ddp", "far"),
        *places,
        "trainer.max_steps=100000",
        "trainer.save_steps=3",
    ]
    first = llmkd.start(*command, "--machine-rank", "0")
    second = llmkd.start_until(
        f"far/{STAGE}/checkpoints/checkpoint-6", *command, "--machine-rank", "1"
    )
    started = psutil.Process(second.pid).children(recursive=True)
    assert kill("launcher", second)
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
    # Its rank 0 is the one that is left.
    _, err = ended(first)
    assert first.returncode == 1
    assert "another process of this training ended" in err
    assert err.splitlines()[-1].startswith("machine 0 of 2: a process failed with exit status 1; ")
    _, err = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "machine 1 of 2: a process was killed by signal 9; " in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3", "fsdp2"])
def test_killed_at_random_moments_it_ends_in_the_same_bits(llmkd, recipe, engine):
    started = time.monotonic()
    llmkd.run(*launched(recipe, engine, "whole"))
    longest = time.monotonic() - started
    reference = weights(llmkd.folder / "whole")
    moments, num_kills, num_runs = random.Random(engine), 0, 0
    victims = itertools.cycle(["one rank", "all", "launcher", "command"])
    # With four engines, 52 kills in all.
    while num_kills < 13:
        process = llmkd.start(*launched(recipe, engine, f"cut-{num_runs}"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(0.3, 0.9) * longest)
        num_kills += kill(next(victims), process)
        ended(process)
        if process.returncode == 0:
            assert_same(weights(llmkd.folder / f"cut-{num_runs}"), reference)
            num_runs += 1
    llmkd.run(*launched(recipe, engine, f"cut-{num_runs}"))
    assert_same(weights(llmkd.folder / f"cut-{num_runs}"), reference)
