"""Adapters where none can be are refused when the recipe is loaded."""

import pytest

from llmkd.errors import InputError
from llmkd.recipe import load
from llmkd.recipe.references import references

RECIPE = """\
name: adapted
stages:
  first:
    kind: train
    student: {model_name_or_path: some/student}
    data: {dataset_name: some/data}
    losses: [{kind: cross_entropy}]
  second:
    kind: train
    student: STUDENT
    teacher: TEACHER
    data: DATA
    losses: [{kind: forward_kl}]
  third:
    kind: score
    teacher: TEACHER
    data: {dataset_name: some/data}
"""


def problems(
    tmp_path,
    student="{model_name_or_path: some/student}",
    teacher="{model_name_or_path: some/teacher, adapter_name_or_path: some/adapter}",
    data="{dataset_name: some/data}",
):
    text = RECIPE.replace("STUDENT", student).replace("TEACHER", teacher).replace("DATA", data)
    (tmp_path / "r.yaml").write_text(text)
    try:
        load(tmp_path / "r.yaml")
    except InputError as error:
        return error.problems
    return []


def test_a_teacher_may_have_one(tmp_path):
    assert problems(tmp_path) == []
    stage = load(tmp_path / "r.yaml").stages["third"]
    assert stage.teacher.name == "some/teacher with adapter some/adapter"
    assert "some/adapter" in list(references(stage))


def test_a_student_may_not(tmp_path):
    (found,) = problems(tmp_path, "{model_name_or_path: s, adapter_name_or_path: a}")
    assert (
        "second.student.adapter_name_or_path: a student does not start from an adapter; " in found
    )
    assert "merge_and_unload" in found


def test_nor_a_classifiers_teacher(tmp_path):
    (found,) = problems(tmp_path, data="{kind: classification, dataset_name: some/data}")
    assert "second.teacher.adapter_name_or_path: a classifier's adapter has its head too" in found


def test_a_stage_makes_no_adapter(tmp_path):
    teacher = "{model_name_or_path: t, adapter_name_or_path: 'stage:first'}"
    for found, name in zip(problems(tmp_path, teacher=teacher), ["second", "third"], strict=True):
        assert f"{name}.teacher.adapter_name_or_path: a stage's model has its adapter" in found


@pytest.mark.parametrize("adapter", ["./adaptr", "/nowhere/adapter"])
def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch, adapter):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").mkdir()
    teacher = f"{{model_name_or_path: t, adapter_name_or_path: {adapter}}}"
    first, second = problems(tmp_path, teacher=teacher)
    assert f"second.teacher.adapter_name_or_path: {adapter} does not exist" in first
    assert f"third.teacher.adapter_name_or_path: {adapter} does not exist" in second
