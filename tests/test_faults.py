"""How the libraries that write and allocate say that there is no more, and what llmkd makes of it."""

import errno
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmkd.errors import InputError, LlmkdError
from llmkd.faults import explained, explanation
from llmkd.recipe.schema import EvaluateStage, GenerateStage, TrainStage

WRITERS = {
    "text": lambda path: path.write_text("x" * 5000),
    "torch": lambda path: torch.save(torch.zeros(10_000), path),
    "safetensors": lambda path: save_file({"a": torch.zeros(10_000)}, path),
    "numpy": lambda path: np.save(path, np.zeros(10_000)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_that_finds_no_room_is_recognised(tmp_path, no_large_files, writer):
    said = r"(ulimit -f|the disk is full).*make room there"
    with no_large_files(), pytest.raises(LlmkdError, match=said), explained(tmp_path):
        WRITERS[writer](tmp_path / "file.npy")


ALLOCATORS = {
    "torch": lambda: torch.empty(10**15),
    "numpy": lambda: np.empty(10**15),
    "python": lambda: bytearray(10**15),
    "accelerator": lambda: raise_(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")),
    "driver": lambda: raise_(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might")),
    "fork": lambda: raise_(OSError(errno.ENOMEM, "Cannot allocate memory")),
}


def raise_(error):
    raise error


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_every_allocator_that_finds_no_memory_is_recognised(tmp_path, allocator):
    said = r"^out of memory \(.*\); write a smaller batch size"
    with pytest.raises(LlmkdError, match=said), explained(tmp_path):
        ALLOCATORS[allocator]()


def test_the_place_is_that_of_the_file_that_the_error_names(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", "/elsewhere/cache/file")
    message = explanation(error, tmp_path)
    assert message is not None
    assert message.startswith("/elsewhere/cache: the disk is full (")


def test_bad_input_that_a_full_disk_led_to_is_a_full_disk(tmp_path):
    error = InputError("teacher: no model could be loaded")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(LlmkdError, match="the disk is full") as caught, explained(tmp_path):
        raise error
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory"),
        RuntimeError("shapes do not match"),
        OSError(errno.ENOENT, "No such file or directory"),
        InputError("row 3: 'No space left on device' is no number"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_pass_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, explained(tmp_path):
        raise error
    assert caught.value is error


def advice(stage, folder):
    return explanation(torch.OutOfMemoryError("CUDA out of memory"), folder, stage) or ""


def train_stage(**parts):
    whole = {"kind": "train", "student": {"model_name_or_path": "student"},
             "teacher": {"model_name_or_path": "teacher"}, "data": {"dataset_name": "data"},
             "losses": [{"kind": "forward_kl"}]}  # fmt: skip
    return TrainStage.model_validate(whole | parts)


def test_a_train_stage_is_told_the_keys_that_it_does_not_use_yet(tmp_path):
    message = advice(train_stage(), tmp_path)
    for key in (
        "trainer.per_device_train_batch_size: 4 with trainer.gradient_accumulation_steps: 2",
        "data.max_length below 1024",
        "trainer.gradient_checkpointing: true",
        "student.lora: {r: 16}",
        "teacher.dtype: bfloat16",
        "trainer.optim: adafactor",
        "--overwrite",
    ):
        assert key in message
    frugal = train_stage(
        student={"model_name_or_path": "student", "lora": {}},
        teacher={"model_name_or_path": "teacher", "dtype": "bfloat16"},
        data={"kind": "task", "num_examples": 9},
        trainer={"per_device_train_batch_size": 1, "gradient_checkpointing": True, "optim": "sgd"},
    )
    assert "write a smaller student; then" in advice(frugal, tmp_path)


def test_half_a_batch_is_not_said_to_have_the_same_loss_where_terms_compare_its_rows(tmp_path):
    losses = [{"kind": "forward_kl"}, {"kind": "sinkhorn"}]
    halves = "gradient_accumulation_steps: 2"
    assert f"{halves} (the same loss)" in advice(train_stage(losses=losses[:1]), tmp_path)
    message = advice(train_stage(losses=losses), tmp_path)
    assert halves in message
    assert "the same loss" not in message


def test_other_stages_are_told_their_own_keys(tmp_path):
    generate = GenerateStage.model_validate(
        {"kind": "generate", "teacher": {"model_name_or_path": "t"}, "data": {"dataset_name": "d"}}
    )
    message = advice(generate, tmp_path)
    assert "engine.batch_size: 64, or generation.max_completion_length below 256" in message
    task = {"kind": "perplexity", "name": "text", "data": {"dataset_name": "d", "max_length": 99}}
    suite = {"name": "suite", "tasks": [task]}
    evaluate = EvaluateStage.model_validate({"kind": "evaluate", "models": ["m"], "suite": suite})
    message = advice(evaluate, tmp_path)
    assert "batch_size: 64, or suite.tasks.0.data.max_length below 99" in message


def test_an_error_that_does_not_say_why_is_a_full_disk_where_the_disk_is_full(
    tmp_path, monkeypatch
):
    error = RuntimeError("could not write")
    assert explanation(error, tmp_path) is None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, free=4096))
    message = explanation(error, tmp_path) or ""
    assert message.startswith(f"{tmp_path}: the disk is full (could not write)")
    memory = explanation(torch.OutOfMemoryError("CUDA out of memory"), tmp_path) or ""
    assert memory.startswith("out of memory")


GLOO = (
    "[/torch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:38626. This is"
)


def test_a_rank_that_another_one_left_alone_says_so_on_the_first_process_only(
    tmp_path, monkeypatch
):
    # It is not for a full disk, though the disk is full, which the other one may have told of.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, free=4096))
    (tmp_path / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    said = r"^another process .*closed by peer.* the same command goes on from checkpoint-2$"
    with pytest.raises(LlmkdError, match=said), explained(tmp_path, train_stage()):
        raise RuntimeError(GLOO)
    # The first of a second machine.
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(LlmkdError, match=said), explained(tmp_path, train_stage()):
        raise RuntimeError(GLOO)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as caught, explained(tmp_path, train_stage()):
        raise torch.distributed.DistBackendError("NCCL error: remote process exited")
    assert caught.value.code == 1


def test_what_was_told_of_a_stage_is_not_told_again_of_the_run(tmp_path):
    stage_folder = tmp_path / "stages" / "train"
    (stage_folder / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    with (
        pytest.raises(LlmkdError, match=r"stages/train: the disk is full.*from checkpoint-2$"),
        explained(tmp_path),
        explained(stage_folder, train_stage()),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_where_no_run_is_written_nothing_is_said_to_be_saved(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", "/elsewhere/cache/file")
    message = explanation(error, None)
    assert message is not None
    assert message.startswith("/elsewhere/cache: the disk is full (")
    assert message.endswith("; make room there, and run it again")
    assert "saved" not in message
