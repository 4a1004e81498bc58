"""What a check with `--launch` says of memory, and what it proposes."""

import re

import pytest

from llmkd.check.machine import Machine, Memory
from llmkd.check.report import report
from llmkd.check.spread import Spread
from llmkd.recipe import load_with_source

GIB = 2**30
BIG = """\
name: big
kind: train
student: {kind: scratch, config: {model_type: llama, hidden_size: 512, intermediate_size: 2048,
  num_hidden_layers: 8, num_attention_heads: 8, vocab_size: 32000}}
data: {kind: task, digits: 9, num_examples: 2000}
losses: [{kind: cross_entropy}]
trainer: {per_device_train_batch_size: 64}
"""


@pytest.fixture
def big(tmp_path):
    """Checks BIG, spread over processes, on a device of so many bytes or in main memory."""
    path = tmp_path / "big.yaml"
    path.write_text(BIG)

    def check(spread, size, *overrides, has_accelerator=True):
        pool = Memory("a pool", size, size)
        machine = Machine(pool, [pool] * has_accelerator, "as given", 2)
        return report(*load_with_source(path, overrides), machine, spread)

    return check


def memory_of(report, stage="train"):
    return report.stages[stage].facts["memory"].value


def proposed(report):
    """What the warning says to write."""
    (warning,) = [text for text in report.warnings if "estimate); write" in text]
    return warning.split("write ", 1)[1].split(", or ")


def made(check, spread, size, text):
    """A check with what one proposal says."""
    engines = re.findall(r"--launch (\w+)", text)
    settings = re.findall(r"(\w+): (\w+)", text)
    overrides = [f"trainer.{key}={value}" for key, value in settings]
    return check(Spread(engines[0], 8) if engines else spread, size, *overrides)


def test_each_proposal_fits_when_it_is_made(big):
    # 66 million parameters, 64 sequences: DDP takes 6.1 GiB, FSDP2 5.3.
    spread, size = Spread("ddp", 8), 7 * GIB
    found = big(spread, size)

    assert found.stages["train"].verdict == "tight"
    assert proposed(found)[0] == "--launch fsdp2"
    for text in proposed(found):
        assert made(big, spread, size, text).stages["train"].verdict == "fits", text


def test_where_nothing_fits_alone_several_are_proposed_together(big):
    spread, size = Spread("ddp", 8), 2 * GIB

    (text,) = proposed(big(spread, size))

    assert re.fullmatch(r"--launch fsdp2 with trainer.per_device_train_batch_size: .*", text)
    assert made(big, spread, size, text).stages["train"].verdict == "fits"


def test_main_memory_is_shared_by_the_processes(big):
    alone = big(Spread("ddp", 1), 12 * GIB, has_accelerator=False)
    four = big(Spread("ddp", 4), 12 * GIB, has_accelerator=False)

    assert memory_of(alone) == memory_of(four)
    assert alone.stages["train"].verdict == "fits"
    assert four.stages["train"].verdict == "does not fit"


def test_a_step_takes_the_batches_of_all_processes(big):
    one, four = (big(Spread("ddp", count), 80 * GIB) for count in (1, 4))

    facts = [found.stages["train"].facts for found in (one, four)]
    assert facts[1]["tokens per step"].value == 4 * facts[0]["tokens per step"].value
    # 2000 rows: 32 batches of 64, 8 of 256; 3 epochs.
    assert [each["steps"].value for each in facts] == [96, 24]


def test_the_teacher_can_come_from_a_store_and_the_student_have_adapters(local, machine):
    recipe = load_with_source(local / "local.yaml", [])
    tiny = Machine(machine.system, [Memory("a device", GIB // 2, GIB // 2)], "as given", 2)

    whole = report(*recipe, tiny, Spread("ddp", 2))
    plain = report(*recipe, tiny)

    # Python alone takes more than that, so nothing fits, and the stage's own keys are named.
    assert whole.stages["train"].verdict == "does not fit"
    assert proposed(whole) == proposed(plain)


def test_without_launch_a_check_is_what_it_was(big, tmp_path):
    alone = big(Spread(), 80 * GIB)

    assert "buckets" not in alone.stages["train"].facts["memory"].parts
    assert "processes" not in alone.stages["train"].facts["memory"].how
