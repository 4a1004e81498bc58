from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmkd.check.architectures import shape_of
from llmkd.check.facts import Fact, NotKnownError
from llmkd.check.machine import MIB, Memory
from llmkd.check.memory import (
    QUANTIZED_STATES,
    RUNTIME_BYTES,
    STATES,
    optimizer_of,
    saved_per_token,
    train_memory,
    verdict,
)
from llmkd.check.models import Model
from llmkd.check.spread import Spread
from llmkd.check.teachers import Beside
from llmkd.recipe.models import InProcessTeacher
from llmkd.recipe.training_arguments import effective, training_arguments

SMALL = {"vocab_size": 61, "hidden_size": 48, "num_attention_heads": 4}
LLAMA = {**SMALL, "intermediate_size": 200, "num_key_value_heads": 2}
TOKENS = (3, 37)


def model(config, **fields):
    shape = shape_of(config)
    count = Fact(shape.num_parameters, "exact")
    known = {"parameters": count, "trainable": count, "shape": shape, "tokenizer": "none"}
    return Model(**{"name": "a", **known, "num_embeddings": 61, "bytes_per_parameter": 4, **fields})


def saved_bytes(config, num_layers, dtype):
    """What autograd keeps of one forward pass, per token, without the weights and their copies."""
    config = AutoConfig.for_model(**config, num_hidden_layers=num_layers)
    network = AutoModelForCausalLM.from_config(config).train()
    of_weights = {tuple(sorted(p.shape)) for p in network.parameters() if p.ndim == 2}
    saved = {}

    def note(tensor):
        if tuple(sorted(tensor.shape)) not in of_weights:
            # Kept alive, as an address may otherwise be used twice.
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(TOKENS, dtype=torch.long)
    is_half = dtype == torch.bfloat16
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        network.base_model(input_ids=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) / ids.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", **LLAMA},
        {"model_type": "qwen2", **LLAMA, "intermediate_size": 70},
        {"model_type": "qwen3", **LLAMA, "head_dim": 16},
        # With dropout, attention on a processor falls back to T x T matrices.
        {"model_type": "gpt2", **SMALL, "attn_pdrop": 0.0},
    ],
    ids=lambda config: config["model_type"],
)
def test_a_layer_keeps_about_what_autograd_saves_for_it(config, dtype):
    measured = saved_bytes(config, 3, dtype) - saved_bytes(config, 2, dtype)

    estimate = saved_per_token(shape_of(config), 2 if dtype == torch.bfloat16 else 4)

    assert estimate == pytest.approx(measured, rel=0.15)


def test_the_sum_of_a_small_training_by_hand():
    # 1 layer, h 8, f 10, q = k 8, V 16: 16*8*2 + 8 + (4*8*8 + 3*8*10 + 2*8) = 776 parameters.
    config = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 10, "vocab_size": 16}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    fact = train_memory(
        model(config), None, Fact(20, "estimate"), effective({}), has_accelerator=False
    )

    assert fact.parts == {
        "weights": 776 * 4,
        "gradients": 776 * 4,
        "optimizer": 776 * 8,
        # a = 4*4*10 + 24*8 + 2*4*(8 + 8) = 480, and three layers of it.
        "activations": 20 * 3 * 480,
        # A chunk of 20*16*4, four blocks as large, the head's gradient 16*8*4, and 20*8*8.
        "head": 5 * 1280 + 512 + 1280,
        "runtime": RUNTIME_BYTES,
    }
    assert fact.value == sum(fact.parts.values())


def beside(teacher, **settings):
    return Beside(teacher, InProcessTeacher(model_name_or_path="a", **settings))


def parts(trainer, teacher=None, **fields):
    student = model({"model_type": "llama", **LLAMA}, **fields)
    tokens = Fact(1000, "estimate")
    return train_memory(student, teacher, tokens, effective(trainer), has_accelerator=True).parts


def test_what_saves_memory_lowers_the_estimate():
    plain = parts({})
    few = Fact(100, "exact")

    checkpointed = parts({"gradient_checkpointing": True})
    assert checkpointed["activations"] < 0.7 * plain["activations"]
    assert parts({"activation_checkpointing": True}) == checkpointed
    assert parts({"bf16": True})["activations"] < plain["activations"]
    assert parts({"optim": "sgd"})["optimizer"] == 0
    assert parts({"optim": "adamw_8bit"})["optimizer"] == plain["optimizer"] / 4
    assert parts({}, trainable=few)["gradients"] == 400
    assert parts({}, trainable=few)["optimizer"] == 800
    assert parts({}, bytes_per_parameter=2)["weights"] == plain["weights"] / 2


def test_a_teacher_adds_its_weights():
    narrow = model({"model_type": "llama", **LLAMA}, bytes_per_parameter=2)
    teacher = beside(narrow)

    assert parts({}, teacher)["teacher"] > narrow.parameters.value * 2
    assert parts({}, teacher)["head"] >= parts({})["head"]


def test_an_offloaded_teacher_hides_behind_what_the_student_keeps():
    teacher = beside(model({"model_type": "llama", **LLAMA}))
    lent = beside(teacher.model, offload="cpu")
    plain = parts({}, teacher)

    kept = plain["activations"] + plain["head"]
    assert parts({}, lent)["teacher"] == max(61 * 48 * 4, plain["teacher"] - kept)


def test_on_a_processor_a_sharded_teacher_is_sent_by_gloo():
    network = model({"model_type": "llama", **LLAMA})
    layer = network.shape.per_layer

    def gloo(teacher, engine):
        fact = train_memory(
            network, teacher, Fact(10, "estimate"), effective({}), has_accelerator=False,
            spread=Spread(engine, 2),
        )  # fmt: skip
        return fact.parts.get("gloo")

    assert gloo(beside(network), "ddp") is None
    assert gloo(beside(network, sharded=True), "ddp") == 4 * layer
    # Not both at once: the larger.
    assert gloo(beside(network, sharded=True), "zero3") == gloo(None, "zero3") > 4 * layer


def test_of_a_teacher_without_a_shape_parts_are_known_from_below_only():
    network = model({"model_type": "llama", **LLAMA})
    far = replace(network, shape="no formula for it")

    def exactness(**settings):
        fact = train_memory(
            network, beside(far, **settings), Fact(10, "estimate"), effective({}),
            has_accelerator=True, spread=Spread("ddp", 2),
        )  # fmt: skip
        return fact.exactness, "not all of the teacher: no formula for it" in fact.how

    assert exactness() == ("estimate", False)
    assert exactness(sharded=True) == exactness(quantization="4bit") == ("at least", True)


def test_every_optimizer_of_transformers_is_known_or_said_to_be_taken_for_adamw():
    choices = training_arguments()["optim"].choices

    assert {*STATES, *QUANTIZED_STATES} <= set(choices)
    for name in choices:
        assert optimizer_of({"optim": name}, 4).bytes_per_parameter <= 12
    assert optimizer_of({"optim": "galore_adamw"}, 4).how == "galore_adamw taken for AdamW"
    assert optimizer_of({"optim": None}, 4).bytes_per_parameter == 8


def test_what_is_not_known_of_models_is_left_out_and_said():
    unknown = Fact(None, "not known", "it is far away")
    far = model({"model_type": "llama", **LLAMA}, parameters=unknown, shape="it is far away")
    near, tokens = model({"model_type": "llama", **LLAMA}), Fact(10, "estimate")

    fact = train_memory(near, beside(far), tokens, effective({}), has_accelerator=False)
    assert (fact.exactness, "teacher" in fact.parts) == ("at least", False)
    assert "without the teacher: it is far away" in fact.how
    with pytest.raises(NotKnownError, match="it is far away"):
        train_memory(far, None, tokens, effective({}), has_accelerator=False)


@pytest.mark.parametrize(
    ("needed", "exactness", "expected"),
    [
        (79, "estimate", "fits"),
        (81, "estimate", "tight"),
        (101, "estimate", "does not fit"),
        (50, "at least", "not known"),
        (101, "at least", "does not fit"),
        (None, "not known", "not known"),
    ],
)
def test_the_verdict_leaves_a_margin(needed, exactness, expected):
    size = None if needed is None else needed * MIB

    assert verdict(Fact(size, exactness), Memory("m", 200 * MIB, 100 * MIB)) == expected
    assert verdict(Fact(size, exactness), None) == "not known"
