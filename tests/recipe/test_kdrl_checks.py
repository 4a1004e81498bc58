"""What a kdrl stage is refused for when its recipe is loaded."""

import pytest

from llmkd.errors import InputError
from llmkd.recipe import kdrl_checks
from llmkd.recipe.load import checked_recipe

TASK = {"kind": "task", "digits": 2, "num_examples": 9}
TEACHER = {
    "kind": "train",
    "student": {"kind": "scratch", "config": {"model_type": "llama"}},
    "data": TASK,
    "losses": [{"kind": "cross_entropy"}],
}
ANSWER = {"kind": "number"}
STAGE = {
    "kind": "kdrl",
    "student": {"model_name_or_path": "stage:teacher"},
    "teacher": {"model_name_or_path": "stage:teacher"},
    "data": {**TASK, "keep_columns": ["answer"]},
    "reward_funcs": [ANSWER],
}
SERVER = {
    "kind": "server",
    "model_name_or_path": "stage:teacher",
    "server": {"kind": "server", "base_url": "http://localhost:8000/v1"},
}
ROWS = {"dataset_name": "rows.jsonl", "keep_columns": ["answer"]}
PLATEAU = {"kind": "opd_then_rl", "switch": {"kind": "plateau"}}
VALIDATION = {"data": STAGE["data"], "steps": 5}


def recipe_of(**fields):
    written = {key: value for key, value in {**STAGE, **fields}.items() if value is not None}
    return {"name": "r", "stages": {"teacher": TEACHER, "student": written}}


def problems(**fields):
    with pytest.raises(InputError) as caught:
        checked_recipe(recipe_of(**fields))
    return caught.value.problems


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"objective": {"kind": "grpo"}, "teacher": None},
        {"objective": {"kind": "opd"}},
        {
            "objective": {
                "coefficient": {"kind": "linear", "start": 5e-3, "end": 1e-3, "num_steps": 80}
            }
        },
        {"objective": {"mask": "group", "correct": "number"}},
        {"objective": {"kind": "opd_then_rl", "switch": {"kind": "step", "step": 60}}},
        {"objective": PLATEAU, "validation": VALIDATION},
        {"guards": [{"metric": "entropy", "below": 0.01, "action": "soften"}]},
        {"trainer": {"num_generations": 4, "max_completion_length": 64, "beta": 0.04}},
        {"reward_funcs": [{"kind": "format", "pattern": "#.*"}], "data": TASK},
        {"student": {"model_name_or_path": "stage:teacher", "lora": {"r": 4}}},
        {
            "objective": {"kind": "grpo"},
            "teacher": None,
            "trainer": {"loss_type": "cispo", "top_p": 0.9},
        },
    ],
)
def test_what_fits_loads(fields):
    assert checked_recipe(recipe_of(**fields)).stages["student"].kind == "kdrl"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": {"kind": "grpo"}}, "student.teacher: grpo asks no teacher; leave it out"),
        ({"teacher": None}, "student.objective: kdrl compares the student with a teacher"),
        ({"objective": {"kind": "opd"}, "teacher": None}, "student.objective: opd compares"),
        ({"reward_funcs": []}, "student.reward_funcs: "),
        ({"objective": {"kind": "opd", "mask": "group"}}, "student.objective.mask: "),
        ({"objective": {"coefficient": 0.0}}, "student.objective.coefficient: input should be greater"),
        ({"objective": {"estimator": "k1"}}, "student.objective.estimator: "),
        ({"objective": {"mask": "group", "correct": "exact"}}, "objective.correct: no reward is called `exact`"),
        (
            {"objective": {"mask": "group"}, "reward_funcs": [{"kind": "format", "pattern": "#"}]},
            "student.objective.mask: no reward says whether a response is right",
        ),
        ({"objective": PLATEAU}, "student.objective.switch: a plateau is one of the validation"),
        (
            {"objective": PLATEAU, "validation": VALIDATION, "reward_funcs": [{"kind": "format", "pattern": "#"}]},
            "student.objective.switch: no reward says whether",
        ),
        ({"objective": {"kind": "opd_then_rl"}}, "student.objective.switch: "),
        ({"guards": [{"metric": "entropy"}]}, "student.guards.0: has no limit; write `above`, `below`"),
        ({"guards": [{"metric": "length", "above": 3}]}, "student.guards.0.metric: "),
        ({"data": TASK}, "data.keep_columns: reward_funcs.0.answer_column reads `answer`"),
        (
            {"data": {**TASK, "keep_columns": ["answer", "gold"]}},
            "data.keep_columns.1: the rows have no column `gold`, but answer",
        ),
        ({"validation": {"data": TASK, "steps": 5}}, "validation.data.keep_columns: reward_funcs.0"),
        ({"trainer": {"num_generation": 4}}, "trainer.num_generation: no such training argument; did you mean `num_generations`?"),
        ({"trainer": {"reward_weights": [1]}}, "trainer.reward_weights: not taken here: write `weight`"),
        ({"trainer": {"eval_steps": 3}}, "trainer.eval_steps: not taken here: write the stage's `validation`"),
        ({"trainer": {"loss_type": 3}}, "trainer.loss_type: input should be text"),
        ({"trainer": {"loss_type": "cispo"}}, "trainer.loss_type: cispo is not added up as distillation is"),
        ({"trainer": {"top_p": 0.9}}, "trainer.top_p: the reverse KL is that of the student's own distribution"),
        ({"trainer": {"generation_kwargs": {"top_p": 0.9}}}, "trainer.generation_kwargs: the reverse KL is that"),
        ({"trainer": {"max_completion_length": None}}, "trainer.max_completion_length: responses have to end"),
        ({"trainer": {"sync_ref_model": True}}, "trainer.sync_ref_model: not taken here: checkpoints lack"),
        ({"teacher": SERVER, "trainer": {"temperature": "hot"}}, "trainer.temperature: input should be a number"),
        ({"trainer": {"temperature": 0}}, "trainer.temperature: input should be greater than 0"),
        ({"trainer": {"steps_per_generation": 0}}, "trainer.steps_per_generation: input should be greater than 0"),
        ({"trainer": {"num_generations": 1}}, "trainer.num_generations: input should be 2 or more"),
        ({"objective": {"kind": "opd"}, "trainer": {"beta": 0.04}}, "trainer.beta: opd is the teacher's term alone"),
        (
            {"student": {"model_name_or_path": "stage:teacher", "adapter_name_or_path": "a"}, "trainer": {"beta": 0.04}},
            "trainer.beta: TRL reads the reference from student.model_name_or_path alone",
        ),
        (
            {"data": ROWS, "validation": {"data": {**ROWS, "chat_template": "other.jinja"}, "steps": 5}},
            "validation.data.chat_template: a student has one template",
        ),
        ({"student": {"kind": "scratch", "config": {"model_type": "llama"}}}, "student.student.kind: "),
        ({"reward_funcs": [{"kind": "perplexity"}]}, "student.reward_funcs.0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(fields, message):
    assert any(message in problem for problem in problems(**fields)), problems(**fields)


def test_without_a_teacher_there_is_nothing_to_guard_or_to_soften():
    guards = [
        {"metric": "reverse_kl", "above": 1.0},
        {"metric": "entropy", "below": 0.1, "action": "soften"},
    ]
    found = problems(objective={"kind": "grpo"}, teacher=None, guards=guards)
    assert len(found) == 2
    assert "guards.0: grpo has no teacher whose KL" in found[0]
    assert "guards.1: grpo has no coefficient to soften" in found[1]


def test_a_stage_of_trl_says_what_to_install_where_it_is_not(monkeypatch):
    monkeypatch.setattr(kdrl_checks, "is_trl_installed", lambda: False)
    assert any("pip install 'llmkd[rl]'" in problem for problem in problems())


def test_a_student_of_a_kdrl_stage_serves_later_stages():
    recipe = recipe_of()
    recipe["stages"]["again"] = {**STAGE, "student": {"model_name_or_path": "stage:student"}}
    assert list(checked_recipe(recipe).stages) == ["teacher", "student", "again"]
