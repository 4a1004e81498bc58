"""Where a teacher's weights may be, and in how many bits."""

import pytest

from llmkd.errors import InputError
from llmkd.recipe.load import checked_recipe

TRAIN = {
    "kind": "train",
    "student": {"model_name_or_path": "hub/student"},
    "data": {"kind": "task", "digits": 1, "num_examples": 20},
    "losses": [{"kind": "forward_kl"}],
}


def load(**teacher):
    stage = TRAIN | {"teacher": {"model_name_or_path": "hub/teacher", **teacher}}
    return checked_recipe({"name": "r", "stages": {"student": stage}}).stages["student"]


@pytest.mark.parametrize(
    "other", [{"offload": "cpu"}, {"sharded": True}, {"adapter_name_or_path": "hub/adapter"}]
)
def test_quantised_weights_stay_where_and_as_they_are(other):
    (name,) = other
    with pytest.raises(InputError, match=rf"teacher.quantization: .*{name}; leave one"):
        load(quantization="4bit", **other)
    assert load(**other).teacher.quantization is None


def test_parts_may_wait_on_the_cpu():
    teacher = load(sharded=True, offload="cpu").teacher
    assert (teacher.sharded, teacher.offload) == (True, "cpu")


def test_rollouts_are_not_scored_by_a_teacher_in_parts():
    stage = {
        "kind": "kdrl",
        "student": {"model_name_or_path": "hub/student"},
        "teacher": {"model_name_or_path": "hub/teacher", "sharded": True},
        "data": {"kind": "task", "digits": 1, "num_examples": 20, "keep_columns": ["answer"]},
        "reward_funcs": [{"kind": "length", "max_length": 5, "soft_length": 5}],
        "objective": {"coefficient": 0.5},
    }
    with pytest.raises(InputError, match=r"student.teacher.sharded: .*offload: cpu, or a server"):
        checked_recipe({"name": "r", "stages": {"student": stage}})
