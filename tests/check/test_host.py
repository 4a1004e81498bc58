"""The main memory that loading takes."""

from dataclasses import replace

import pytest

from llmkd.check.facts import StageFacts
from llmkd.check.host import look_at_host, processes_here
from llmkd.check.machine import Machine, Memory
from llmkd.check.memory import RUNTIME_BYTES
from llmkd.check.models import Models
from llmkd.check.report import report
from llmkd.check.spread import GIVEN, Spread
from llmkd.recipe import load_with_source

MIB = 2**20


def machine(num_accelerators, free=8 * 2**30, how="by nvidia-smi"):
    pool = Memory("main memory", free, free)
    return Machine(pool, [Memory("GPU", 80 * 2**30, 80 * 2**30)] * num_accelerators, how, 2)


@pytest.mark.parametrize(
    ("num_accelerators", "how", "num_processes", "here"),
    [
        (8, "by nvidia-smi", 32, 8),
        (8, "by nvidia-smi", 4, 4),
        (0, "no nvidia-smi here", 4, 4),
        # Nobody says how many of these a machine has.
        (1, GIVEN, 4, 4),
    ],
)
def test_a_machine_has_as_many_processes_as_accelerators(
    num_accelerators, how, num_processes, here
):
    on = machine(num_accelerators, how=how)

    assert processes_here(Spread("zero3", num_processes), on) == here


def host(local, on, *overrides):
    found = report(*load_with_source(local / "local.yaml", overrides), on, Spread("zero3", 4))
    return found.stages["train"]


def test_every_process_loads_student_and_teacher_whole(local):
    recipe, _ = load_with_source(local / "local.yaml", [])
    models = Models(recipe)
    sizes = [
        models.student_of("train").parameters.value,
        models.of(recipe.stages["train"].local_teacher).parameters.value,
    ]

    found = host(local, machine(2), "teacher.dtype=bfloat16")

    # Two of the four; float32, and 2 bytes.
    assert found.facts["host memory"].parts == {
        "student": 2 * 4 * sizes[0], "teacher": 2 * 2 * sizes[1], "runtime": 2 * RUNTIME_BYTES,
    }  # fmt: skip
    assert not [text for text in found.warnings if "host memory" in text]


def test_a_machine_with_less_is_warned_of(local):
    small = machine(2, free=1000 * MIB)

    (warning,) = host(local, small).warnings

    assert warning.startswith("host memory: 2 processes load their models whole, 1.4 GiB together")
    end = "write teacher.dtype: bfloat16, or start fewer processes on each machine"
    assert warning.endswith(f"main memory has 1000.0 MiB free; {end}")
    (warning,) = host(local, small, "teacher.dtype=bfloat16").warnings
    assert warning.endswith("1000.0 MiB free; start fewer processes on each machine")
    # The main memory behind devices that are not here is not known.
    assert not host(local, replace(small, accelerators_known=GIVEN)).warnings


def test_of_models_that_are_not_known_nothing_is_warned(local):
    recipe, _ = load_with_source(local / "local.yaml", ["student.model_name_or_path=far/away"])
    found = StageFacts("train")

    look_at_host(found, Models(recipe).student_of("train"), [], Spread("ddp", 2), machine(2, 1))

    assert found.facts["host memory"].value is None
    assert not found.warnings


def test_one_process_without_an_engine_has_no_such_fact(checked, local):
    assert "host memory" not in checked(local / "local.yaml").stages["train"].facts


@pytest.mark.parametrize(("engine", "is_refused"), [("ddp", False), ("zero2", True)])
def test_optimizers_that_need_whole_weights_are_told_before_a_training_refuses_them(
    local, engine, is_refused
):
    source = load_with_source(local / "local.yaml", ["trainer.optim=adafactor"])
    found = report(*source, machine(2), Spread(engine, 2)).stages["train"]

    assert any("adafactor is refused" in text for text in found.warnings) == is_refused
