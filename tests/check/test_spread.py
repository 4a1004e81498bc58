import pytest

from llmkd.check.architectures import shape_of
from llmkd.check.machine import Machine, Memory
from llmkd.check.spread import ALONE, Spread, Trained, spread_of, states, with_devices
from llmkd.errors import InputError
from llmkd.launch import ENGINES

MACHINE = Machine(Memory("main memory", 8, 8), [], "no nvidia-smi here", 2)
# 1 layer, h 8, f 10, q = k 8, V 16: 16*8*2 + 8 outside, 4*8*8 + 3*8*10 + 2*8 = 512 in the layer.
SMALL = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 10, "vocab_size": 16}
SHAPE = shape_of({**SMALL, "num_hidden_layers": 1, "num_attention_heads": 2})


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
    assert parts("zero2") == {**parts("zero1"), "gradients": 776}
    # Gathered are all: there are fewer than 1e9. Float32 weights are their own master.
    assert parts("zero3") == {
        "weights": 776, "gradients": 776, "optimizer": 1552, "buckets": 6208, "gathered": 3104,
    }  # fmt: skip
    # 264 outside and two layers of 512, as weights and as gradients.
    assert parts("fsdp2") == {
        "weights": 776, "gradients": 776, "optimizer": 1552, "gathered": (264 + 1024) * 4 * 2,
    }  # fmt: skip


def test_half_precision_by_hand():
    half = student(is_half=True)

    assert parts("ddp", of=half)["half copies"] == 1552
    # Weights and gradients of 2 bytes, a float32 master of a quarter.
    assert parts("zero3", of=half) == {
        "weights": 388, "gradients": 388, "optimizer": 1552, "buckets": 3104,
        "master weights": 776, "gathered": 1552,
    }  # fmt: skip
    # FSDP2 keeps float32, and gathers half.
    assert parts("fsdp2", of=half)["weights"] == 776
    assert parts("fsdp2", of=half)["gathered"] == (264 + 1024) * 2 * 2


def test_adapters_are_what_is_trained_and_the_rest_is_split_by_zero3_and_fsdp2_only():
    few = student(num_trainable=100)

    assert parts("zero2", of=few)["weights"] == (776 + 100) * 4
    assert parts("zero2", of=few)["optimizer"] == 200
    assert parts("zero3", of=few)["weights"] == 876
    assert parts("fsdp2", of=few)["weights"] == 876
    assert parts("fsdp2", of=few)["gathered"] == (264 + 1024) * 4


def test_on_an_accelerator_deepspeed_takes_its_bucket_whole():
    assert parts("zero1", has_accelerator=True)["buckets"] == 2_000_000_000
    assert parts("zero2", has_accelerator=True)["buckets"] == 2_000_000_000
    assert parts("zero3", has_accelerator=True)["buckets"] == 2_000_003_104


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
        ("pyproject.toml", 2, "is a file, and check has formulas for engines only; write ddp"),
        ("zero4", 2, "no such engine or file zero4"),
        (None, 2, "of which engine?"),
        ("ddp", 0, "0 cannot be spread evenly"),
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
