from dataclasses import replace

import pytest

from llmkd.check.architectures import shape_of
from llmkd.check.classifiers import classifier_shape_of
from llmkd.check.machine import Machine, Memory
from llmkd.check.spread import ALONE, Spread, Trained, spread_of, states, with_devices
from llmkd.errors import InputError
from llmkd.launch_files import ENGINES

MACHINE = Machine(Memory("main memory", 8, 8), [], "no nvidia-smi here", 2)
# 1 layer, h 8, f 10, q = k 8, V 16: 16*8*2 + 8 outside, 4*8*8 + 3*8*10 + 2*8 = 512 in the layer.
SMALL = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 10, "vocab_size": 16}
LAYER = {"num_hidden_layers": 1, "num_attention_heads": 2}
SHAPE = shape_of({**SMALL, **LAYER})


def student(num_parameters=776, num_trainable=None, *, is_half=False):
    return Trained(
        num_parameters, num_trainable or num_parameters, 4, 4, 8.0, is_half=is_half, shape=SHAPE
    )


def parts(engine, num_processes=4, *, of=None, has_accelerator=False):
    return states(of or student(), Spread(engine, num_processes), has_accelerator=has_accelerator)


@pytest.mark.parametrize(
    ("engine", "gib"), [("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9), (None, 120.0)]
)
def test_mixed_precision_with_adam_takes_what_the_zero_paper_says(engine, gib):
    # Its figure 1, GB of 1e9: 7.5 billion parameters, 64 processes, K = 12; 16 bytes for one alone.
    of = student(7_500_000_000, is_half=True)
    names = ("weights", "gradients", "master weights", "optimizer")

    found = parts(engine, 64, of=of)

    total = sum(found.get(name, 0) for name in names)
    if engine is None:
        # Alone, weights and gradients are float32 and are their own master: 4 + 4 + 8.
        assert "master weights" not in found
    assert total / 1e9 == pytest.approx(gib, abs=0.05)


def test_each_engine_in_float32_by_hand():
    # 776 parameters, 4 bytes each, 8 of Adam; 4 processes.
    assert parts("ddp") == {
        "weights": 3104, "gradients": 3104, "optimizer": 6208, "buckets": 3104,
    }  # fmt: skip
    assert parts("zero1") == {
        "weights": 3104, "gradients": 3104, "optimizer": 1552, "buckets": 3104,
        "master weights": 776,
    }  # fmt: skip
    # What is sent is copied; ZeRO-1's copy takes the place of gradients.
    assert parts("zero2") == {**parts("zero1"), "gradients": 776, "buckets": 6208}
    # Gathered are all: there are fewer than 1e9. Float32 weights are their own master.
    # Gloo copies the bucket.
    assert parts("zero3") == {
        "weights": 776, "gradients": 776, "optimizer": 1552, "buckets": 6208, "gathered": 3104,
        "gloo": 3104,
    }  # fmt: skip
    # Head and norm, 136; the layer of 512, its gradient, the one before it, and what is being sent.
    assert parts("fsdp2") == {
        "weights": 776, "gradients": 776, "optimizer": 1552, "gathered": (136 + 4 * 512) * 4,
        "gloo": 512 * 4,
    }  # fmt: skip


def test_fsdp2_gathers_a_large_head_with_its_copy_and_one_layer():
    # V 400: head 3200 and norm 8, more than three layers of 512; tied, the embedding is in it.
    large = Trained(1, 1, 4, 4, 8.0, is_half=False, shape=SHAPE.with_vocabulary(400))
    assert parts("fsdp2", of=large)["gathered"] == (2 * 3208 + 512) * 4
    assert parts("fsdp2", of=large)["gloo"] == 3208 * 4
    tied = shape_of({**SMALL, **LAYER, "tie_word_embeddings": True})
    assert parts("fsdp2", of=replace(large, shape=tied))["gathered"] == (136 + 4 * 512) * 4
    # A classifier's largest are the embeddings, 128 beside the norm's 8 and a head of 3 rows.
    classifier = classifier_shape_of({**SMALL, **LAYER}, 3)
    assert parts("fsdp2", of=replace(large, shape=classifier))["gathered"] == (160 + 4 * 512) * 4


def test_between_accelerators_nothing_is_copied_for_gloo():
    for engine in ENGINES:
        assert "gloo" not in parts(engine, has_accelerator=True)
        assert ("gloo" in parts(engine)) == (engine in ("zero3", "fsdp2"))


def test_half_precision_by_hand():
    half = student(is_half=True)

    assert parts("ddp", of=half)["half copies"] == 1552
    # Weights and gradients of 2 bytes, a float32 master of a quarter.
    assert parts("zero3", of=half) == {
        "weights": 388, "gradients": 388, "optimizer": 1552, "buckets": 3104,
        "master weights": 776, "gathered": 1552, "gloo": 1552,
    }  # fmt: skip
    # FSDP2 keeps float32, gathers half, and sends gradients in float32.
    assert parts("fsdp2", of=half)["weights"] == 776
    assert parts("fsdp2", of=half)["gathered"] == 2 * 136 + 4 * 512 + 2 * 3 * 512
    assert parts("fsdp2", of=half)["gloo"] == 4 * 512


def test_adapters_are_what_is_trained_and_the_rest_is_split_by_zero3_and_fsdp2_only():
    few = student(num_trainable=100)

    assert parts("zero2", of=few)["weights"] == (776 + 100) * 4
    assert parts("zero2", of=few)["optimizer"] == 200
    assert parts("zero3", of=few)["weights"] == 876
    assert parts("fsdp2", of=few)["weights"] == 876
    assert parts("fsdp2", of=few)["gathered"] == (136 + 2 * 512) * 4


def test_on_an_accelerator_deepspeed_takes_its_bucket_whole():
    assert parts("zero1", has_accelerator=True)["buckets"] == 200_000_000
    assert parts("zero2", has_accelerator=True)["buckets"] == 200_003_104
    assert parts("zero3", has_accelerator=True)["buckets"] == 200_003_104


def test_a_weight_that_is_larger_than_deepspeeds_bucket_is_sent_by_itself():
    # An embedding of 1e7 rows of 8, in a student that has 1e8 parameters in all.
    large = student(100_000_000)
    large = replace(large, shape=SHAPE.with_vocabulary(10_000_000))

    assert parts("zero2", of=large)["buckets"] == 4 * (50_000_000 + 80_000_000)
    assert parts("zero1", of=large)["buckets"] == 4 * 50_000_000


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_in_parts_shrinks_with_the_number_of_processes(engine):
    totals = [sum(parts(engine, count).values()) for count in (1, 2, 8)]

    if engine == "ddp":
        assert totals[0] == totals[1] == totals[2]
    else:
        assert totals[0] > totals[1] > totals[2]


def test_a_share_is_rounded_up():
    assert Spread("zero3", 3).share(10) == 4


def test_processes_are_counted_where_there_are_accelerators():
    two = Machine(None, [Memory("GPU 0", 8, 8)] * 2, "by nvidia-smi", 2)

    assert spread_of(None, None, two) is ALONE
    assert spread_of("zero2", None, two) == Spread("zero2", 2)
    assert spread_of("zero2", 16, MACHINE) == Spread("zero2", 16)


@pytest.mark.parametrize(
    ("launch", "num_processes", "message"),
    [
        ("zero2", None, "no accelerator here to count; write how many processes"),
        (
            "recipes/accelerate/ddp.yaml",
            2,
            "is a file, and check has formulas for engines only; write ddp",
        ),
        ("zero4", 2, "no such engine or file zero4"),
        (None, 2, "of which engine?"),
        ("ddp", 0, "--num-processes: 0; write 1 or more"),
    ],
)
def test_what_cannot_be_computed_is_refused(launch, num_processes, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        spread_of(launch, num_processes, MACHINE)


def test_a_device_that_is_not_here_takes_the_place_of_those_that_are():
    assert with_devices(MACHINE, None) is MACHINE
    (device,) = with_devices(MACHINE, 1.5).accelerators
    assert (device.total, device.free) == (3 * 2**29, 3 * 2**29)
    for size in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"--device-memory-gib: .*; write a number above 0"):
            with_devices(MACHINE, size)
