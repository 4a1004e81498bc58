"""What an evaluation names outside its stage, and what follows from that."""

import json

import pytest

from llmkd.errors import InputError
from llmkd.recipe import shipped
from llmkd.recipe.base import RecipePart
from llmkd.recipe.load import checked_recipe
from llmkd.recipe.references import references, resolved
from llmkd.recipe.rollout_teachers import RoutedTeacher
from llmkd.recipe.shipped import shipped_folder
from llmkd.run_folder import digest, fingerprint
from llmkd.run_plan import Run

HARNESS = {
    "kind": "lm_eval",
    "name": "mine",
    "definition": "mine.yaml",
    "data": {"dataset_name": "rows.jsonl", "fewshot_name": "solved.jsonl"},
}
REASONING = {
    "kind": "reasoning",
    "name": "sums",
    "grader": "number",
    "data": {"dataset_name": "questions.jsonl"},
    "fewshot": {"dataset_name": "examples.jsonl"},
}
OOD = {
    "kind": "ood",
    "name": "far",
    "data": {"kind": "classification", "dataset_name": "near.jsonl"},
    "out_data": {"kind": "classification", "dataset_name": "far.jsonl"},
}
FILES = {
    "harness": (HARNESS, ["mine.yaml", "rows.jsonl", "solved.jsonl"]),
    "reasoning": (REASONING, ["questions.jsonl", "examples.jsonl"]),
    "ood": (OOD, ["near.jsonl", "far.jsonl"]),
}


def run_of(task):
    """A run whose stage measures one task."""
    suite = {"name": "mine", "tasks": [task]}
    stage = {"kind": "evaluate", "models": ["./model"], "suite": suite}
    return Run(checked_recipe({"name": "run", "stages": {"measured": stage}}))


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for _, names in FILES.values():
        for name in names:
            (tmp_path / name).write_text("{}\n")
    (tmp_path / "model").mkdir()


@pytest.mark.parametrize("kind", FILES)
def test_every_file_of_a_task_is_listed_and_an_edited_one_is_measured_again(kind, tmp_path):
    task, names = FILES[kind]
    run = run_of(task)
    assert set(references(run.stage("measured"))) == {"./model", *names}
    for name in names:
        before = fingerprint(run.inputs("measured"))
        (tmp_path / name).write_text('{"edited": 1}\n')
        assert fingerprint(run.inputs("measured")) != before


def test_an_edited_prompt_file_is_asked_again(tmp_path):
    (tmp_path / "mine.txt").write_text("{a}")
    stage = {
        "kind": "generate",
        "teacher": {"model_name_or_path": "./model"},
        "data": {"dataset_name": "rows.jsonl", "prompt_file": "~/mine.txt"},
    }
    run = Run(checked_recipe({"name": "run", "stages": {"asked": stage}}))
    assert run.resolved_stage("asked").data.prompt_file == str(tmp_path / "mine.txt")
    before = fingerprint(run.inputs("asked"))
    assert fingerprint(run.inputs("asked")) == before
    (tmp_path / "mine.txt").write_text("{a}!")
    assert fingerprint(run.inputs("asked")) != before


def test_a_shipped_prompt_is_part_of_what_a_stage_depends_on():
    data = {"dataset_name": "rows.jsonl", "prompt_file": "prompts/explain.txt"}
    stage = {"kind": "generate", "teacher": {"model_name_or_path": "./model"}, "data": data}
    run = Run(checked_recipe({"name": "run", "stages": {"asked": stage}}))
    shipped = shipped_folder("recipes") / "prompts" / "explain.txt"
    assert run.inputs("asked")["files"]["prompts/explain.txt"] == digest(shipped)
    assert run.resolved_stage("asked").data.prompt_file == str(shipped)


def test_the_home_folder_is_found(tmp_path):
    data = {"dataset_name": "~/rows.jsonl", "fewshot_name": "~/solved.jsonl"}
    run = run_of({**HARNESS, "definition": "~/mine.yaml", "data": data})
    (task,) = run.resolved_stage("measured").suite.tasks
    assert task.definition == str(tmp_path / "mine.yaml")
    assert task.data.fewshot_name == str(tmp_path / "solved.jsonl")


def test_a_definition_that_is_written_out_names_nothing_and_stays():
    written = {"dataset_path": "json", "dataset_name": "~/rows.jsonl", "doc_to_text": "{{a}}"}
    run = run_of({**HARNESS, "definition": written})
    assert "~/rows.jsonl" not in list(references(run.stage("measured")))
    (task,) = run.resolved_stage("measured").suite.tasks
    assert task.definition == written


@pytest.mark.parametrize("place", ["definition", "fewshot_name"])
def test_a_file_that_is_not_there_is_named(place):
    task = {**HARNESS, "data": {**HARNESS["data"]}}
    (task if place == "definition" else task["data"])[place] = "./nowhere.yaml"
    with pytest.raises(InputError, match=rf"{place}: ./nowhere.yaml does not exist"):
        run_of(task)


def test_examples_may_be_what_a_stage_wrote():
    task = {**HARNESS, "data": {"dataset_name": "rows.jsonl", "fewshot_name": "stage:data"}}
    generated = {
        "kind": "generate",
        "teacher": {"model_name_or_path": "./model"},
        "data": {"kind": "task", "num_examples": 3},
    }
    measured = {
        "kind": "evaluate",
        "models": ["./model"],
        "suite": {"name": "mine", "tasks": [task]},
    }
    stages = {"data": generated, "measured": measured}
    run = Run(checked_recipe({"name": "run", "stages": stages}))
    (resolved,) = run.resolved_stage("measured").suite.tasks
    assert resolved.data.fewshot_name == run.product("data")


def test_what_a_definition_includes_is_part_of_it(tmp_path):
    folder = tmp_path / "tasks"
    (folder / "more").mkdir(parents=True)
    contents = {
        "mine.yaml": "include: [base.yaml, gone.yaml]\nprocess_docs: !function utils.pick\n",
        "base.yaml": "include: more/deep.yaml\nfilter_list:\n  - {custom: !function more.own.f}\n",
        "more/deep.yaml": "include: ../mine.yaml\n",  # a circle
        "utils.py": "def pick(docs): return docs\n",
        "more/own.py": "def f(): pass\n",
        "other.py": "",
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
    run = run_of({**HARNESS, "definition": "~/tasks/mine.yaml"})
    assert fingerprint(run.inputs("measured")) == fingerprint(run.inputs("measured"))
    for name in contents:
        before = fingerprint(run.inputs("measured"))
        (folder / name).write_text(contents[name] + "# edited\n")
        is_changed = fingerprint(run.inputs("measured")) != before
        assert is_changed == (name != "other.py"), name
    before = fingerprint(run.inputs("measured"))
    (folder / "gone.yaml").write_text("task: back\n")
    assert fingerprint(run.inputs("measured")) != before


@pytest.mark.parametrize("content", ["a: [", "- a\n", "include: 3\n", "\0", "!function\n"])
def test_a_definition_that_says_nothing_has_no_further_files(tmp_path, content):
    (tmp_path / "mine.yaml").write_text(content)
    assert set(run_of(HARNESS).inputs("measured")["files"]) - {"3"} == {
        "./model",
        "mine.yaml",
        "rows.jsonl",
        "solved.jsonl",
    }


def curating(suite):
    step = {"kind": "contamination", "suites": [suite], "ngram": 2}
    stage = {"kind": "curate", "data": "rows.jsonl", "steps": [step]}
    return Run(checked_recipe({"name": "run", "stages": {"kept": stage}}))


@pytest.mark.parametrize("is_shipped", [True, False])
def test_an_edited_suite_is_looked_for_anew(tmp_path, monkeypatch, is_shipped):
    suite = tmp_path / "suites" / "mine.yaml"
    suite.parent.mkdir()
    task = {**REASONING, "fewshot": None}
    suite.write_text(json.dumps({"name": "mine", "tasks": [task]}))
    monkeypatch.setattr(shipped, "shipped_folder", lambda kind: suite.parent)
    run = curating("mine" if is_shipped else "suites/mine.yaml")
    before = fingerprint(run.inputs("kept"))
    assert fingerprint(run.inputs("kept")) == before
    suite.write_text(json.dumps({"name": "mine", "tasks": [{**task, "grader": "exact_match"}]}))
    edited = fingerprint(run.inputs("kept"))
    assert edited != before
    # And so is one whose questions are others.
    (tmp_path / "questions.jsonl").write_text('{"edited": 1}\n')
    assert fingerprint(run.inputs("kept")) != edited


def test_the_teachers_of_a_routed_one_are_resolved_whatever_they_are_called():
    class Stage(RecipePart):
        teacher: RoutedTeacher

    names = ("math", "path", "base", "teachers")
    teachers = {name: {"model_name_or_path": f"stage:{name}"} for name in names}
    teacher = {"kind": "routed", "column": "domain", "teachers": teachers}
    stage = Stage.model_validate({"teacher": teacher})
    assert [*references(stage)] == [f"stage:{name}" for name in names]
    found = resolved(stage, lambda value: value.replace("stage:", "run/")).teacher.teachers
    assert [each.model_name_or_path for each in found.values()] == [f"run/{name}" for name in names]
