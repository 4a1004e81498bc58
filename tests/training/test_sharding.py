"""Engines that keep weights in parts: what they are refused with, and models that are loaded whole beside them."""

import os
from types import SimpleNamespace

import pytest
from transformers import LlamaConfig, T5Config
from transformers.integrations.deepspeed import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

from llmkd.errors import InputError
from llmkd.training.sharding import check_engine, is_split, loaded_whole


def trainer(*, stage=None, gathers=True, fsdp=None, config=None):
    """What `check_engine` looks at."""
    kept = {"stage3_gather_16bit_weights_on_model_save": gathers}
    deepspeed = SimpleNamespace(zero_stage=stage, deepspeed_config={"zero_optimization": kept})
    state = SimpleNamespace(
        deepspeed_plugin=None if stage is None else deepspeed,
        fsdp_plugin=None if fsdp is None else SimpleNamespace(fsdp_version=fsdp),
    )
    return SimpleNamespace(
        accelerator=SimpleNamespace(state=state),
        is_fsdp_enabled=fsdp is not None,
        model=SimpleNamespace(config=config or LlamaConfig()),
    )


@pytest.mark.parametrize("engine", [{}, {"stage": 2, "gathers": False}, {"stage": 3}, {"fsdp": 2}])
def test_engines_that_work_pass(engine):
    check_engine(trainer(**engine))


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"stage": 3, "gathers": False}, "could not be saved whole; write zero3_save_16bit_model"),
        ({"fsdp": 1}, "write fsdp_version: 2"),
        ({"fsdp": 2, "config": T5Config()}, "take ZeRO-3"),
    ],
)
def test_others_are_refused_with_what_to_write(engine, message):
    with pytest.raises(InputError, match=message):
        check_engine(trainer(**engine))


def test_models_are_loaded_whole_whatever_an_engine_has_said_of_them(monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
    assert is_deepspeed_zero3_enabled()
    with loaded_whole():
        assert not is_deepspeed_zero3_enabled()
        assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    assert is_deepspeed_zero3_enabled(), "the engine's own, for what comes after"
    del config
    assert not is_deepspeed_zero3_enabled()


def test_what_splits_the_student_is_known_before_there_is_a_trainer(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert not is_split(SimpleNamespace())
    assert not is_split(SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=2)))
    assert is_split(SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3)))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert is_split(SimpleNamespace())
