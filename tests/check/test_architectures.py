"""Every formula against the real model of transformers, on the meta device."""

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmkd.check.architectures import KNOWN, num_lora_parameters, shape_of
from llmkd.check.facts import NotKnownError

SMALL = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA = {**SMALL, "intermediate_size": 50}
CONFIGS = [
    *[{"model_type": kind, **LLAMA} for kind in ("llama", "mistral", "qwen2", "qwen3")],
    *[{"model_type": kind, **LLAMA, "tie_word_embeddings": True} for kind in KNOWN],
    *[{"model_type": kind, **LLAMA, "num_key_value_heads": 2} for kind in ("llama", "mistral")],
    *[{"model_type": kind, **LLAMA, "num_key_value_heads": 1} for kind in ("qwen2", "qwen3")],
    *[{"model_type": kind, **LLAMA, "head_dim": 10} for kind in ("llama", "mistral", "qwen2")],
    {"model_type": "qwen3", **LLAMA, "head_dim": 10, "num_key_value_heads": 2},
    *[{"model_type": kind, **LLAMA, "attention_bias": True} for kind in ("llama", "qwen3")],
    {"model_type": "llama", **LLAMA, "mlp_bias": True, "attention_bias": True},
    {"model_type": "llama", **LLAMA, "num_key_value_heads": None},
    {"model_type": "mistral", **LLAMA, "attention_bias": True},
    {"model_type": "gpt2", **SMALL},
    {"model_type": "gpt2", "n_embd": 12, "n_layer": 2, "n_head": 2, "n_inner": 17},
    {"model_type": "gpt2", **SMALL, "n_positions": 33},
    {"model_type": "gpt2", **SMALL, "tie_word_embeddings": False, "max_position_embeddings": 9},
    # All of transformers' defaults: 7 billion parameters, none of which is made.
    *[{"model_type": kind} for kind in KNOWN],
]


def name_of(config):
    return ",".join(str(value) for value in config.values())


def on_meta_device(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_the_formula_counts_what_the_model_has(config):
    shape = shape_of(config)
    model = on_meta_device(config)

    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert shape.vocab_size == model.get_output_embeddings().weight.shape[0]
    assert shape.num_layers == model.config.num_hidden_layers


@pytest.mark.parametrize("config", CONFIGS[:9], ids=name_of)
def test_another_vocabulary_changes_what_it_changes_in_the_model(config):
    cut = shape_of(config).with_vocabulary(50)

    assert cut.num_parameters == shape_of({**config, "vocab_size": 50}).num_parameters


@pytest.mark.parametrize("r", [1, 5])
@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("targets", ["all-linear", "some"])
def test_the_formula_counts_what_peft_trains(kind, targets, r):
    config = {"model_type": kind, **SMALL, "num_key_value_heads": 2}
    if kind == "gpt2":
        del config["num_key_value_heads"]
    if targets == "some":
        targets = ["c_proj"] if kind == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    adapters = peft.LoraConfig(task_type="CAUSAL_LM", r=r, target_modules=targets)
    if kind == "gpt2":
        adapters.fan_in_fan_out = True
    model = peft.get_peft_model(on_meta_device(config), adapters)

    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert num_lora_parameters(shape_of(config), r, targets) == trainable


def test_other_targets_are_not_known():
    with pytest.raises(NotKnownError, match="names lm_head, for which there is no formula"):
        num_lora_parameters(shape_of({"model_type": "llama", **LLAMA}), 4, ["q_proj", "lm_head"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "no formula for mamba, only for llama"),
        ({}, "no formula for None"),
        ({"model_type": ["llama"]}, "no formula for"),
        ({"model_type": "llama", "hidden_size": "64"}, 'hidden_size of its configuration is "64"'),
        ({"model_type": "llama", "num_hidden_layers": True}, "num_hidden_layers .* is true"),
        ({"model_type": "llama", "vocab_size": -1}, "vocab_size .* is -1; write a whole number"),
        ({"model_type": "llama", "hidden_size": 2, "num_attention_heads": 4}, "head_dim .* is 0"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "cross-attention"),
    ],
)
def test_what_makes_no_model_is_not_known(config, message):
    with pytest.raises(NotKnownError, match=message):
        shape_of(config)


def test_a_size_beyond_any_model_is_not_known():
    config = {"model_type": "llama", "hidden_size": 10**400}
    with pytest.raises(NotKnownError, match="hidden_size of its configuration is 1000"):
        shape_of(config)
