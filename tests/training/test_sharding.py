"""Engines that keep weights in parts, and models that are loaded whole beside them."""

import os
from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.deepspeed import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

from llmkd.launch import DEEPSPEED_BUCKET
from llmkd.training.sharding import (
    is_split,
    loaded_whole,
    place,
    send_in_pieces,
    share_embeddings,
)


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


def test_deepspeeds_bucket_is_small_unless_its_user_says_how_large():
    def bucket(stage, **written):
        config = {"zero_optimization": written}
        plugin = SimpleNamespace(zero_stage=stage, deepspeed_config=config)
        state = SimpleNamespace(deepspeed_plugin=plugin)
        send_in_pieces(SimpleNamespace(accelerator=SimpleNamespace(state=state)))
        return config["zero_optimization"].get("reduce_bucket_size")

    assert bucket(2) == bucket(3) == DEEPSPEED_BUCKET
    assert bucket(2, reduce_bucket_size="auto") == "auto"
    assert bucket(0) is None


@pytest.mark.parametrize(("engine", "device"), [("true", "cpu"), ("false", "meta")])
def test_a_student_that_will_be_in_parts_waits_in_host_memory(
    tokenizer, tiny_llama, monkeypatch, engine, device
):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", engine)
    model = tiny_llama(tokenizer)
    place(model, SimpleNamespace(device=torch.device("meta")))
    assert model.device.type == device


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_modules_that_share_the_embedding_become_one_and_the_model_stays_the_same(
    tokenizer, tiny_seq2seq, kind
):
    model = tiny_seq2seq(tokenizer, kind)
    ids = torch.arange(8).reshape(2, 4)
    before, names = model(input_ids=ids, decoder_input_ids=ids).logits, set(model.state_dict())
    share_embeddings(model)
    base = model.get_encoder(), model.get_decoder()
    assert all(side.embed_tokens is model.get_input_embeddings() for side in base)
    assert torch.equal(model(input_ids=ids, decoder_input_ids=ids).logits, before)
    assert set(model.state_dict()) == names


def test_an_embedding_of_its_own_stays(tokenizer, tiny_llama):
    model = tiny_llama(tokenizer)
    before = list(model.modules())
    share_embeddings(model)
    assert list(model.modules()) == before
