"""What a check with `--launch` says of memory, and what it proposes."""

import re
from dataclasses import replace

import pytest
import yaml

from llmkd.check.facts import Fact
from llmkd.check.fitting import Setup, settings_that_fit
from llmkd.check.machine import Machine, Memory
from llmkd.check.report import report
from llmkd.check.spread import Spread
from llmkd.check.stages import Checker
from llmkd.check.teachers import Beside
from llmkd.recipe import load_with_source
from llmkd.recipe.schema import TrainStage
from llmkd.recipe.training_arguments import effective

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


def test_where_nothing_fits_even_together_the_keys_of_the_stage_are_named(local, machine):
    recipe = load_with_source(local / "local.yaml", [])
    # Python alone takes more.
    tiny = Machine(machine.system, [Memory("a device", GIB // 2, GIB // 2)], "as given", 2)

    whole = report(*recipe, tiny, Spread("ddp", 2))

    assert whole.stages["train"].verdict == "does not fit"
    assert proposed(whole) == proposed(report(*recipe, tiny))


@pytest.fixture
def tried(local, machine):
    """What is proposed for a recipe where only setups of a certain kind fit."""

    def of(is_small, *overrides, num_processes=2, **changes):
        recipe, _ = load_with_source(local / "local.yaml", overrides)
        stage = recipe.stages["train"]
        assert isinstance(stage, TrainStage)
        models = Checker(recipe, machine).models
        student = replace(models.student_of("train"), **changes)
        source = stage.local_teacher
        teacher = source and Beside(models.of(source), source)
        setup = Setup(student, teacher, effective(stage.trainer), Spread("ddp", num_processes))
        pool = Memory("a pool", 100, 100)
        return settings_that_fit(
            stage, setup, lambda one: Fact(1 if is_small(one) else 200, "estimate"), pool
        )

    return of


@pytest.mark.parametrize(
    ("is_small", "proposals"),
    [
        (lambda one: one.teacher is None, ["teacher.kind: store"]),
        (
            lambda one: one.teacher and one.teacher.model.bytes_per_parameter == 2,
            ["teacher.dtype: bfloat16"],
        ),
        (lambda one: one.teacher and one.teacher.source.sharded, ["teacher.sharded: true"]),
        (lambda one: one.teacher and one.teacher.source.offload, ["teacher.offload: cpu"]),
        (
            lambda one: one.teacher and one.teacher.source.quantization,
            ["teacher.quantization: 8bit", "teacher.quantization: 4bit"],
        ),
        (lambda one: one.arguments["bf16"], ["trainer.bf16: true"]),
        (lambda one: one.arguments["optim"] == "adafactor", ["trainer.optim: adafactor"]),
        (
            lambda one: one.arguments["gradient_checkpointing"],
            ["trainer.gradient_checkpointing: true"],
        ),
        (
            lambda one: one.student.trainable != one.student.parameters,
            ["student.lora: {r: 16}"],
        ),
        (
            # Of 4 rows: 2, or 1; the larger one is proposed.
            lambda one: one.arguments["per_device_train_batch_size"] <= 2,
            ["trainer.per_device_train_batch_size: 2 and gradient_accumulation_steps: 2"],
        ),
        (lambda one: one.spread.engine == "zero2", ["--launch zero2"]),
    ],
    ids=[
        "store",
        "teacher",
        "sharded",
        "offload",
        "quantization",
        "bf16",
        "optimizer",
        "checkpointing",
        "lora",
        "batch",
        "engine",
    ],
)
def test_a_setting_is_proposed_where_it_is_what_fits(is_small, proposals, tried):
    assert tried(is_small) == proposals


def test_what_is_written_already_is_not_proposed(tried):
    written = (
        "student.lora={r: 4}",
        "trainer.bf16=true",
        "trainer.optim=sgd",
        "teacher.dtype=float16",
    )
    more = ("trainer.activation_checkpointing=true", "trainer.per_device_train_batch_size=1")

    found = tried(lambda one: True, *written, *more)

    engines = [f"--launch {engine}" for engine in ("zero1", "zero2", "zero3", "fsdp2")]
    teachers = [f"teacher.{text}" for text in ("sharded: true", "offload: cpu")]
    bits = [f"teacher.quantization: {bits}" for bits in ("8bit", "4bit")]
    assert found == [*engines, *teachers, *bits, "teacher.kind: store"]


@pytest.mark.parametrize(
    ("settings", "proposals"),
    [
        ("{sharded: true}", ["offload: cpu"]),
        ("{offload: cpu}", ["sharded: true"]),
        ("{quantization: 4bit}", []),
        ("{adapter_name_or_path: adapter}", ["sharded: true", "offload: cpu"]),
    ],
)
def test_places_that_a_teacher_cannot_be_in_are_not_proposed(settings, proposals, tried):
    changes = [f"teacher.{key}={value}" for key, value in yaml.safe_load(settings).items()]

    found = tried(lambda one: True, *changes, "teacher.dtype=float16")

    of_teacher = [text for text in found if text.startswith("teacher.")]
    assert of_teacher == [*(f"teacher.{text}" for text in proposals), "teacher.kind: store"]


def test_for_one_process_a_teacher_in_parts_is_not_proposed(tried):
    def is_sharded(setup):
        return setup.teacher is not None and setup.teacher.source.sharded

    assert tried(is_sharded) == ["teacher.sharded: true"]
    assert tried(is_sharded, num_processes=1) == []


@pytest.mark.parametrize(
    ("overrides", "changes", "engines"),
    [
        ((), {"is_seq2seq": True}, ["zero1", "zero2", "zero3", "fsdp2"]),
        (("term_gradient_steps=5",), {}, ["fsdp2"]),
        (("student.lora={r: 4}",), {"is_classifier": True}, ["zero1", "zero2"]),
    ],
    ids=["seq2seq", "term gradients", "LoRA of a classifier"],
)
def test_engines_that_would_be_refused_are_not_proposed(overrides, changes, engines, tried):
    found = tried(lambda one: one.spread.engine != "ddp", *overrides, **changes)

    assert found == [f"--launch {engine}" for engine in engines]


def test_without_launch_a_check_is_what_it_was(big, tmp_path):
    alone = big(Spread(), 80 * GIB)

    assert "buckets" not in alone.stages["train"].facts["memory"].parts
    assert "processes" not in alone.stages["train"].facts["memory"].how
