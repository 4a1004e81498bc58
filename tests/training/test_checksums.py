"""A checkpoint that is not as it was written is told apart, file by file, and not gone on from."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from llmkd.errors import InputError
from llmkd.training.checkpoints import checkpoint_steps
from llmkd.training.checksums import CHECKSUMS, damage, write_checksums
from llmkd.training.metrics import STATE_FILE
from llmkd.training.train import run_train


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


FAULTS = {
    flip: "is not as it was written",
    cut_short: "bytes, where",
    lambda path: path.unlink(): "is not there",
}


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def metrics(folder):
    timed = {"tokens_per_s", "peak_memory_gib"}
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@pytest.fixture
def whole(train_stage, tmp_path):
    """A finished run of 6 steps, with checkpoints at 2, 4 and 6, and its stage."""
    stage = train_stage({"save_total_limit": 9, "logging_steps": 3})
    run_train(stage, tmp_path / "whole", name="s", seed=0)
    return tmp_path / "whole", stage


def test_every_fault_in_every_file_is_found_and_named(whole, tmp_path):
    checkpoint = whole[0] / "checkpoints" / "checkpoint-4"
    # As DeepSpeed's and FSDP's are: files in folders of folders.
    (checkpoint / "global_step4" / "zero").mkdir(parents=True)
    (checkpoint / "global_step4" / "zero" / "rank_1.pt").write_bytes(b"moments")
    write_checksums(checkpoint)
    assert damage(checkpoint) is None
    names = [str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file()]
    assert {"model.safetensors", "optimizer.pt", "global_step4/zero/rank_1.pt"} <= set(names)
    for name in names:
        for fault, said in FAULTS.items():
            if name == CHECKSUMS and said == "is not there":
                continue  # That is a checkpoint of an older version.
            shutil.copytree(checkpoint, tmp_path / "broken")
            fault(tmp_path / "broken" / name)
            found = damage(tmp_path / "broken")
            assert found, (name, said)
            assert found.startswith(f"{name}: "), found
            assert said in found or name == CHECKSUMS
            shutil.rmtree(tmp_path / "broken")


def test_without_checksums_a_checkpoint_counts_as_whole_if_its_last_file_is_there(tmp_path):
    assert damage(tmp_path / "none") == f"{STATE_FILE}: is not there"
    (tmp_path / STATE_FILE).write_text("{}")
    assert damage(tmp_path) is None


@pytest.mark.parametrize(
    ("broken", "goes_on_from"), [([6], 4), ([6, 4], 2), ([6, 4, 2], None), ([4], 6)]
)
def test_resuming_takes_the_newest_whole_checkpoint_and_ends_in_the_same_bits(
    whole, tmp_path, capsys, broken, goes_on_from
):
    folder, stage = whole
    expected, log = weights(folder), metrics(folder)
    (folder / "model").rename(tmp_path / "gone")
    files = dict(zip(broken, ["optimizer.pt", "rng_state.pth", "model.safetensors"], strict=False))
    for step, (name, fault) in zip(broken, zip(files.values(), FAULTS, strict=False), strict=True):
        fault(folder / "checkpoints" / f"checkpoint-{step}" / name)
    run_train(stage, folder, name="s", seed=0)
    assert all(torch.equal(expected[name], found) for name, found in weights(folder).items())
    assert metrics(folder) == log
    said = capsys.readouterr().err
    for step in broken if broken != [4] else []:
        assert f"checkpoint-{step} is damaged ({files[step]}: " in said
        assert f"it is .checkpoint-{step}.old-1 now" in said
        assert (folder / "checkpoints" / f".checkpoint-{step}.old-1" / "config.json").is_file()
    if goes_on_from is None:
        assert "no whole checkpoint is left, so the training begins anew" in said
    else:
        assert f"continues from {folder}/checkpoints/checkpoint-{goes_on_from}\n" in said
    # One that is not the newest is not looked at, for it is not gone on from.
    assert ("is damaged" in said) == (broken != [4])


def test_a_damaged_checkpoint_that_is_asked_for_is_refused_and_left_alone(whole):
    folder, stage = whole
    checkpoint = folder / "checkpoints" / "checkpoint-4"
    cut_short(checkpoint / "optimizer.pt")
    back = stage.model_copy(update={"resume": str(checkpoint)})
    said = r"resume: .*checkpoint-4 is no whole checkpoint of llmkd \(optimizer\.pt: has .* bytes"
    with pytest.raises(InputError, match=said):
        run_train(back, folder, name="s", seed=0)
    assert list(checkpoint_steps(folder / "checkpoints")) == [2, 4, 6]
