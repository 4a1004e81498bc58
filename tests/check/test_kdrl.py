"""What `llmkd check` says of a kdrl stage."""

import json

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from llmkd.check.deep import try_stages
from llmkd.check.facts import Fact
from llmkd.check.fitting import Setup, settings_that_fit
from llmkd.check.machine import Memory
from llmkd.check.report import report
from llmkd.check.spread import Spread, with_devices
from llmkd.check.stages import Checker
from llmkd.check.teachers import Beside
from llmkd.errors import InputError
from llmkd.recipe import load, load_with_source
from llmkd.recipe.grpo_arguments import GRPO
from llmkd.recipe.training_arguments import effective
from llmkd.run_plan import Run

RECIPE = """\
name: own_responses
stages:
  student:
    kind: kdrl
    student: {model_name_or_path: STUDENT}
    teacher: {model_name_or_path: TEACHER}
    data: {dataset_name: DATA, keep_columns: [answer]}
    reward_funcs: [{kind: number}]
    trainer: {per_device_train_batch_size: 8, num_generations: 4, max_completion_length: 20, gradient_accumulation_steps: 2}
"""


@pytest.fixture
def recipe(local):
    """A recipe of one kdrl stage on that folder's models and ten rows."""
    text = RECIPE.replace("STUDENT", str(local / "student"))
    text = text.replace("TEACHER", str(local / "teacher"))
    rows = [{"prompt": f"{i}+1=", "answer": i + 1} for i in range(10)]
    (local / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (local / "kdrl.yaml").write_text(text.replace("DATA", str(local / "data.jsonl")))
    return local / "kdrl.yaml"


@pytest.fixture
def stage(checked, recipe):
    """The facts and problems of the stage, with values of its `trainer` block."""

    def look(**trainer):
        values = [f"stages.student.trainer.{name}={value}" for name, value in trainer.items()]
        return checked(recipe, *values).stages["student"]

    return look


def test_prompts_rollouts_steps_and_memory_are_told(stage):
    found = stage()
    facts = {name: fact.value for name, fact in found.facts.items()}
    assert facts["prompts"] == 10
    # `9+1=` after the begin-of-text token, and what may follow.
    assert (facts["longest prompt"], facts["longest row"]) == (5, 25)
    assert facts["rollouts per step"] == 16
    # 3 epochs of 10 prompts with 4 responses each, of which a step takes 16.
    assert facts["steps"] == 8
    assert facts["memory"] > 0
    assert facts["student parameters"] < facts["teacher parameters"]
    assert found.problems == []


@pytest.mark.parametrize(
    ("trainer", "place", "message"),
    [
        ({"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1}, "num_generations", "3 responses .* no whole groups of 4"),
        ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 1}, "num_generations", "6 responses .* write a number that divides 6"),
        ({"generation_batch_size": 16, "steps_per_generation": 2}, "generation_batch_size", "leave one out"),
        ({"generation_batch_size": 12}, "generation_batch_size", "12 is no multiple of per_device_train_batch_size: 8"),
        ({"num_generations": 1}, "num_generations", "input should be"),
    ],
)  # fmt: skip
def test_a_batch_that_trl_would_refuse_is_told(stage, trainer, place, message):
    with pytest.raises(InputError, match=rf"stages.student.trainer.{place}.*: .*{message}"):
        stage(**trainer)


def test_fewer_prompts_than_are_answered_at_once_are_told(stage):
    # Two prompts a micro-batch: eight would do, and sixteen are more than there are.
    with pytest.raises(InputError, match="data: there are 10 prompts, and 16 are answered at once"):
        stage(gradient_accumulation_steps=8)


def test_a_response_beyond_the_students_positions_is_told(stage, local, tokenizer):
    shape = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape))
    model.save_pretrained(local / "student")
    assert stage(max_completion_length=27).problems == []
    with pytest.raises(InputError, match="up to 33 tokens, and the student 32 positions"):
        stage(max_completion_length=28)


def test_deep_takes_a_step_and_lends_the_model_to_later_stages(recipe, local):
    again = recipe.read_text() + (
        "  tuned:\n    kind: kdrl\n    student: {model_name_or_path: stage:student, lora: {r: 2}}\n"
        "    data: {kind: task, digits: 1, num_examples: 9, keep_columns: [answer]}\n"
        "    reward_funcs: [{kind: number}]\n    objective: {kind: grpo}\n"
        "    trainer: {per_device_train_batch_size: 4, num_generations: 4}\n"
        "  last:\n    kind: train\n    student: {model_name_or_path: stage:tuned}\n"
        "    data: {kind: task, digits: 1, num_examples: 9}\n"
        "    losses: [{kind: cross_entropy}]\n    trainer: {per_device_train_batch_size: 4}\n"
    )
    recipe.write_text(again)
    before = {path.name for path in local.iterdir()}
    job = Run(load(recipe, [f"output_dir={local / 'run'}"]))
    tried = {one.name: one for one in try_stages(job, told=lambda name: None)}
    assert {name: one.stand_ins for name, one in tried.items()} == {
        "student": [],
        "tuned": ["student"],
        "last": ["tuned"],
    }
    assert tried["last"].batch.loss > 0
    assert {path.name for path in local.iterdir()} == before


def test_a_teacher_of_rollouts_is_not_to_be_in_parts_but_may_be_offloaded(recipe, machine):
    checker = Checker(load(recipe), machine)
    (name,) = checker.recipe.stages
    stage = checker.recipe.stages[name]
    student = checker.models.student_of(name)
    teacher = Beside(checker.models.of(stage.teacher), stage.teacher)
    setup = Setup(student, teacher, effective(stage.trainer, GRPO), Spread("ddp", 2))

    found = settings_that_fit(
        stage, setup, lambda one: Fact(1, "estimate"), Memory("a pool", 100, 100)
    )

    assert "teacher.offload: cpu" in found
    assert not {"teacher.sharded: true", "teacher.kind: store"} & set(found)


def test_all_teachers_of_rollouts_are_loaded(recipe, machine, local):
    one = f"{{model_name_or_path: {local / 'teacher'}}}"
    two = f"{{kind: routed, column: answer, teachers: {{math: {one}, code: {one}}}}}"

    def loaded(*overrides):
        found = report(*load_with_source(recipe, overrides), machine, Spread("ddp", 2))
        return found.stages["student"].facts["host memory"].parts["teacher"]

    assert loaded(f"stages.student.teacher={two}") == 2 * loaded()


def test_teachers_that_rest_stay_on_the_device_unless_they_are_offloaded(recipe, machine, local):
    one = f"{{model_name_or_path: {local / 'teacher'}}}"
    lent = f"{{model_name_or_path: {local / 'teacher'}, offload: cpu}}"
    on_a_gpu = with_devices(machine, 8)

    def parts(other, on=on_a_gpu):
        teachers = f"{{kind: routed, column: answer, teachers: {{math: {one}, code: {other}}}}}"
        override = f"stages.student.teacher={teachers}"
        found = report(*load_with_source(recipe, [override]), on, Spread("ddp", 2))
        return found.stages["student"].facts["memory"].parts

    size = parts(one)["other teachers"]
    assert size == parts(lent, machine)["other teachers"] > 0
    assert "other teachers" not in parts(lent)


def test_a_teacher_that_comes_after_the_students_forward_pass_is_not_hidden_behind_it(
    recipe, machine, local
):
    def teacher(estimator, offload):
        settings = [
            f"stages.student.teacher={{model_name_or_path: {local / 'teacher'}, offload: {offload}}}",
            f"stages.student.objective.estimator={estimator}",
        ]
        source = load_with_source(recipe, settings)
        found = report(*source, with_devices(machine, 8), Spread("ddp", 2))
        return found.stages["student"].facts["memory"].parts["teacher"]

    assert teacher("full_vocabulary", "cpu") == teacher("full_vocabulary", "null")
    assert teacher("k2", "cpu") < teacher("k2", "null")
