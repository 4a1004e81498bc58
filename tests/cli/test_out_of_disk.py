"""A full disk fails a run with one clear message, and loses nothing.

The fault is the system's own: a hook in the stage's process lowers the limit on the size of files
(writes then fail with EFBIG) just before a chosen file is written. Where mounting is allowed, a
file system of its own really is full.
"""

import json
import os
import subprocess

import pytest
import torch
from safetensors.torch import load_file

# Python runs `sitecustomize` first of all. Opening, or making a folder of, what the pattern fits
# lowers the limit for the rest of the process.
FAULT = """
import os, re, resource, sys
pattern, limit = re.compile(os.environ["FAULT_AT"]), int(os.environ["FAULT_LIMIT"])
def lower(event, arguments):
    if event in ("open", "os.mkdir") and pattern.search(os.fsdecode(arguments[0])
            if isinstance(arguments[0], (str, bytes, os.PathLike)) else ""):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
if "llmkd.stage_process" in sys.orig_argv:
    sys.addaudithook(lower)
"""
ONE_STAGE = """
name: one
kind: train
student:
  kind: scratch
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
data: {kind: task, digits: 1, num_examples: 30}
losses: [{kind: cross_entropy}]
trainer: {max_steps: 6, per_device_train_batch_size: 4, logging_steps: 1, save_steps: 2}
"""


def weights(run, stage):
    return load_file(run / "stages" / stage / "model" / "model.safetensors")


def metrics(run, stage):
    timed = {"tokens_per_s", "peak_memory_gib"}
    lines = (run / "stages" / stage / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def assert_same_products(ours, reference):
    for stage in ("teacher", "student"):
        a, b = weights(ours, stage), weights(reference, stage)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), stage
        assert metrics(ours, stage) == metrics(reference, stage)
    for product in ("stages/teacher_data/data.jsonl", "results.json"):
        assert (ours / product).read_bytes() == (reference / product).read_bytes()


def leftovers(run):
    """Files and folders that are half written, whatever they are called."""
    named = [*run.rglob("*.tmp"), *run.rglob(".final"), *run.rglob(".merged")]
    return named + [path for path in run.rglob(".staging/*") if path.is_dir()]


@pytest.fixture
def faulty(llmkd, recipe, tmp_path_factory, monkeypatch):
    """Runs the recipe with a fault; gives back what was said."""
    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(FAULT)

    def run(at, limit, folder):
        with monkeypatch.context() as patch:
            path = f"{hook}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
            patch.setenv("PYTHONPATH", path.rstrip(os.pathsep))
            patch.setenv("FAULT_AT", at)
            patch.setenv("FAULT_LIMIT", str(limit))
            _, err = llmkd.run("train", recipe, f"output_dir={folder}", status=1)
        assert "Traceback" not in err
        return err

    return run


# Where the fault comes, the bytes that a file may have from then on, what is said, and what follows.
# All in one folder, one after the other: each run goes on to the next fault.
FAULTS = [
    ("checkpoint-4's weights", "teacher/.*staging/checkpoint-4$", 5000, "ulimit -f", "goes on from checkpoint-2"),
    ("checkpoint-6's optimizer", "teacher/.*staging/checkpoint-6$", 20_000, "the disk is full", "goes on from checkpoint-4"),
    ("a shard of the store", "teacher_data/store/shards/.000002.*tmp$", 600, "ulimit -f", "goes on after the last whole shard"),
    ("results", "evaluation/.results.json", 10, "ulimit -f", "goes on with the answers that are left"),
]  # fmt: skip
MORE_FAULTS = [
    ("metrics.jsonl", "teacher/metrics.jsonl$", 800, "ulimit -f", "goes on from checkpoint-2"),
    ("the final model", "teacher/checkpoints/.final$", 300, "ulimit -f", "goes on from checkpoint-8"),
    ("a stage's state", "student/.stage.json", 10, "ulimit -f", "begins the stage again"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("faults", [FAULTS, MORE_FAULTS], ids=["some", "more"])
def test_wherever_a_file_cannot_grow_the_run_says_so_and_goes_on(
    llmkd, recipe, faulty, finished_run, faults
):
    cut = llmkd.folder / "cut"
    for name, at, limit, reason, go_on in faults:
        err = faulty(at, limit, "cut")
        stage = at.split("/")[0]
        (line,) = [line for line in err.splitlines() if line.startswith(f"cut/stages/{stage}")]
        assert reason in line, name
        assert line.endswith(f"make room there, and the same command {go_on}"), name
        assert f"stage {stage} failed with exit status 1; the same command again {go_on}" in err
        assert leftovers(cut) == [], name
    llmkd.run("train", recipe, "output_dir=cut")
    assert_same_products(cut, finished_run)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 KiB, and a function that gives it another size; skips if not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system of its own can only be mounted by root, where that is allowed")

    def resize(kib):
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(disk)], check=True)

    yield disk, resize
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_on_a_disk_that_is_really_full_it_goes_on_as_room_is_made(llmkd, small_disk):
    disk, resize = small_disk
    (llmkd.folder / "one.yaml").write_text(ONE_STAGE)
    llmkd.run("train", "one.yaml", "output_dir=whole")
    said, kib, status = [], 16, 1
    while status:
        process = llmkd.start("train", "one.yaml", f"output_dir={disk}/cut")
        _, err = process.communicate(timeout=300)
        status = process.returncode
        if status:
            assert status == 1, err
            assert "Traceback" not in err
            assert f"{disk}/cut" in err
            assert err.count("the disk is full") == 1, err
            assert leftovers(disk) == []
            said.append(err)
        kib += 150
        resize(kib)
    assert len(said) > 1
    assert any("goes on from checkpoint-" in err for err in said)
    whole = llmkd.folder / "whole"
    ours, reference = weights(disk / "cut", "train"), weights(whole, "train")
    assert all(torch.equal(ours[name], reference[name]) for name in reference)
    assert metrics(disk / "cut", "train") == metrics(whole, "train")
