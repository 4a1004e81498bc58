"""Settings that several processes cannot share."""

import pytest
from transformers import TrainingArguments

from llmkd.errors import InputError
from llmkd.training.arguments import training_arguments


def test_deepspeeds_settings_come_from_one_side_only(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    with pytest.raises(InputError, match=r"trainer\.deepspeed: the launcher brings .*leave it out"):
        training_arguments({"deepspeed": {"zero_optimization": {"stage": 2}}}, tmp_path, seed=0)


def test_one_process_may_look_for_a_batch_that_fits_and_several_may_not(tmp_path, monkeypatch):
    block = {"auto_find_batch_size": True}
    assert training_arguments(block, tmp_path, seed=0).auto_find_batch_size
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(InputError, match="write per_device_train_batch_size"):
        training_arguments(block, tmp_path, seed=0)
