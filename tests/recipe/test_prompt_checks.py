"""Columns that a generate stage keeps or lacks, and prompt files, when a recipe is loaded."""

import pytest

from llmkd.data.prompts import answered
from llmkd.errors import InputError
from llmkd.recipe import load
from llmkd.recipe.prompt_checks import WRITTEN

RECIPE = """\
name: r
stages:
  ask:
    kind: generate
    teacher: {model_name_or_path: org/teacher}
    data: {dataset_name: org/questions, prompt_file: prompts/explain.txt, keep_columns: [question]}
  sums:
    kind: generate
    teacher: {model_name_or_path: org/teacher}
    data: {kind: task, num_examples: 10, keep_columns: [answer]}
  student:
    kind: train
    student: {model_name_or_path: org/student}
    data: {dataset_name: "stage:ask", columns: {prompt: question}}
    losses: [{kind: cross_entropy}]
"""


@pytest.fixture
def problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)

    def of(*overrides):
        try:
            load("r.yaml", overrides)
        except InputError as error:
            return error.problems
        return []

    return of


@pytest.mark.parametrize(
    "override",
    [
        "stages.sums.data.keep_columns=[]",
        "stages.sums.data={kind: task, num_examples: 10, steps: rationale, keep_columns: [rationale]}",
        "stages.sums.data={kind: task, task: named_intents, num_examples: 10, keep_columns: [answer]}",
        "stages.student.data.columns={completion: completion, prompt: number}",
        "stages.student.data={dataset_name: 'stage:ask', dataset_split: other, columns: {prompt: q}}",
    ],
)
def test_what_is_written_or_kept_can_be_taken(problems, override):
    assert problems(override) == []


@pytest.mark.parametrize("name", WRITTEN)
def test_a_column_that_the_stage_writes_is_not_kept(problems, name):
    (said,) = problems(f"stages.ask.data.keep_columns=[question, {name}]")
    assert f"stages.ask.data.keep_columns.1: `{name}` is a column that the stage writes" in said
    assert f"such as `own_{name}`" in said


def test_all_that_is_written_is_guarded():
    plain = answered({"text": "p", "messages": None, "kept": None}, "c", 0)
    chat = answered({"text": "p", "messages": "[]", "kept": None}, "c", 0)
    assert plain.keys() | chat.keys() == set(WRITTEN)


@pytest.mark.parametrize(
    ("override", "key", "said"),
    [
        (
            "stages.sums.data.keep_columns=[rationale]",
            "sums.data.keep_columns.0",
            "the task has no column `rationale`; write some of answer",
        ),
        (
            "stages.sums.data={kind: task, task: named_intents, num_examples: 10, keep_columns: [label]}",
            "sums.data.keep_columns.0",
            "the task has no column `label`; write some of answer",
        ),
        (
            "stages.ask.data.columns={prompt: question}",
            "ask.data.columns",
            "the places in prompt_file have the data set's own names; leave columns out",
        ),
        (
            "stages.student.data.columns={prompt: quest}",
            "student.data.columns.prompt",
            "stage:ask writes no `quest`, but prompt, messages, completion, number, question; write "
            "keep_columns: [quest] in the data of stage:ask",
        ),
        (
            "stages.student.data={kind: mixture, sources: [{dataset_name: 'stage:sums', columns: "
            "{completion: gold}}, {dataset_name: org/other}]}",
            "student.data.sources.0.columns.completion",
            "stage:sums writes no `gold`",
        ),
        (
            "stages.sums.data={dataset_name: 'stage:ask', keep_columns: [question, id]}",
            "sums.data.keep_columns.1",
            "stage:ask writes no `id`",
        ),
        (
            "stages.ask.data.prompt_file=prompts/explains.txt",
            "ask.data.prompt_file",
            "prompts/explains.txt does not exist, nor does its folder",
        ),
        (
            "stages.ask.data.prompt_file=mine",
            "ask.data.prompt_file",
            "mine does not exist; write a path that does (paths start at the current folder); llmkd's "
            "own are prompts/annotate.txt, prompts/explain.txt, prompts/rewrite.txt",
        ),
    ],
)
def test_what_cannot_be_is_named(problems, override, key, said):
    (problem,) = problems(override)
    assert f"stages.{key}" in problem
    assert said in problem
