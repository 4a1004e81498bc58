from pathlib import Path

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from llmkd.errors import DataError, InputError
from llmkd.evaluation.harness.definitions import find_definition, shipped_definitions
from llmkd.evaluation.harness.rows import FEWSHOT, read_splits
from llmkd.evaluation.harness.tasks import load_task
from llmkd.recipe.harness import LMEvalTask
from tests.evaluation.harness.conftest import CHOICE, WRITTEN, write_yaml


def shipped(name, path, **data):
    return LMEvalTask(kind="lm_eval", name=name, data={"dataset_name": path, **data})


@pytest.mark.parametrize("folder", ["glue", "super_glue", "bbh", "mmlu", "arithmetic", "squadv2"])
def test_tasks_are_found_where_lm_evals_own_index_has_them(folder):
    path = Path(lm_eval.__file__).parent / "tasks" / folder
    index = TaskManager(include_defaults=False, include_path=path).task_index
    wanted = {
        name: entry.yaml_path
        for name, entry in index.items()
        if entry.kind.name in ("TASK", "PY_TASK")
    }
    found = {name: file for name, file in shipped_definitions().items() if path in file.parents}
    assert found == wanted
    assert found


@pytest.mark.parametrize(("name", "there"), [("copaa", "`copa`"), ("qqqqqq", "lm-eval ls tasks")])
def test_an_unknown_task_is_refused_with_one_that_is_near(name, there):
    with pytest.raises(InputError, match=rf"task: lm-eval has no task {name} .*{there}"):
        find_definition(name)


def test_rows_may_call_their_columns_otherwise(write_rows):
    rows = [{"first": "It rains.", "inner": {"second": "It is wet."}, "label": "1"}]
    columns = {"sentence1": "first", "sentence2": "inner.second"}
    loaded = load_task(shipped("wnli", write_rows(rows), columns=columns), seed=0)
    (row,) = loaded.eval_docs
    assert loaded.doc_to_text(row) == "It rains.\nQuestion: It is wet. True or False?\nAnswer:"
    # Exports of class labels often have them as text.
    assert loaded.doc_to_target(row) == 1


@pytest.mark.parametrize("name", ["wnli", "copa"])
def test_a_missing_column_is_named(name, write_rows):
    path = write_rows([{"premise": "a", "question": "cause", "sentence2": "b", "label": 0}])
    missing = {"wnli": "sentence1", "copa": "choice1"}[name]
    with pytest.raises(DataError, match=rf"data.columns: .*{name} needs .*{missing}.*rename"):
        load_task(shipped(name, path), seed=0)


def test_a_column_that_the_file_does_not_have_is_refused(write_rows):
    path = write_rows([{"a": 1}])
    with pytest.raises(DataError, match=r"no column for sentence1: b.c; its columns are a"):
        load_task(shipped("wnli", path, columns={"sentence1": "b.c"}), seed=0)


def test_an_empty_file_is_refused(write_rows):
    with pytest.raises(DataError, match="the data set is empty; name one with rows"):
        load_task(shipped("wnli", write_rows([])), seed=0)


@pytest.mark.parametrize("label", [-1, 2, "maybe", None])
def test_an_answer_that_is_no_choice_is_refused(label, write_rows):
    row = {"sentence1": "a", "sentence2": "b"}
    path = write_rows([{**row, "label": label}])
    with pytest.raises(DataError, match=r"row 1: the answer, .*, is none of the choices"):
        load_task(shipped("wnli", path), seed=0)


def test_rows_beyond_those_measured_may_have_no_answer(write_rows):
    row = {"sentence1": "a", "sentence2": "b"}
    path = write_rows([{**row, "label": 1}, {**row, "label": -1}])
    assert load_task(shipped("wnli", path, num_examples=1), seed=0)


def test_a_column_of_several_types_is_refused(write_rows):
    path = write_rows([{"sentence1": "a", "label": 1}, {"sentence1": 2, "label": 1}])
    with pytest.raises(DataError, match="values of several types"):
        load_task(shipped("wnli", path), seed=0)


def test_without_the_hub_a_file_is_asked_for():
    task = LMEvalTask(kind="lm_eval", name="wnli")
    with pytest.raises(DataError, match=r"the hub does not give nyu-mll/glue.*--data wnli=FILE"):
        load_task(task, seed=0)


def test_more_examples_than_rows_are_refused(make_task):
    with pytest.raises(InputError, match=r"num_fewshot: 24 examples, and there are 23 rows"):
        load_task(make_task(WRITTEN, num_fewshot=24), seed=0)


def test_examples_that_are_all_measured_are_refused(make_task, sums):
    task = make_task(WRITTEN, data={"fewshot_name": sums}, num_fewshot=1)
    with pytest.raises(DataError, match="every row is among those that are measured"):
        load_task(task, seed=0)


def test_of_the_examples_those_that_are_measured_are_left_out(make_task, write_rows):
    # The same columns in another order, and nested ones, are the same row.
    measured = [{"sum": "1", "answer": "1", "label": 1, "more": {"a": [1], "b": None}}]
    others = [
        {"label": 1, "more": {"b": None, "a": [1]}, "answer": "1", "sum": "1"},
        {"sum": "1", "answer": "1", "label": 1, "more": {"a": [2], "b": None}},
    ]
    data = {
        "dataset_name": write_rows(measured, "measured.jsonl"),
        "fewshot_name": write_rows(others, "others.jsonl"),
    }
    splits = read_splits(make_task(WRITTEN, data=data).data)
    assert [row["more"]["a"] for row in splits[FEWSHOT]] == [[2]]


def test_fixed_examples_stay(write_rows):
    path = write_rows([{"input": "True is", "target": "True"}])
    name = "bbh_cot_fewshot_boolean_expressions"
    loaded = load_task(shipped(name, path), seed=0)
    prompt = loaded.fewshot_context(loaded.eval_docs[0], loaded.config.num_fewshot)
    assert prompt.count("So the answer is") == 3
    assert prompt.endswith("Q: True is\nA: Let's think step by step.\n")


def test_a_definition_may_be_a_file(make_task, tmp_path):
    path = write_yaml(tmp_path / "mine.yaml", {**CHOICE, "task": "other"})
    assert load_task(make_task(path), seed=0).task_name == "sums"
    with pytest.raises(InputError, match=r"definition: there is no file .*nowhere.yaml"):
        load_task(make_task(str(tmp_path / "nowhere.yaml")), seed=0)


def test_a_task_in_python_reads_its_own_data(write_rows):
    with pytest.raises(InputError, match="squadv2 is written in Python"):
        load_task(shipped("squadv2", write_rows([{"a": 1}])), seed=0)


def test_a_definition_stays_as_it_was_written(make_task):
    task = make_task(WRITTEN, generation_kwargs={"max_gen_toks": 2})
    before = task.model_dump_json()
    load_task(task, seed=0)
    assert task.model_dump_json() == before


@pytest.mark.parametrize(
    "content",
    ["include: gone.yaml\n", "task: [\n", "- a\n", "process_docs: !function gone.f\n"],
)
def test_a_definition_that_cannot_be_read_is_refused_in_words(make_task, tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"definition: .*mine.yaml cannot be read \(.*\); mend it"):
        load_task(make_task(str(path)), seed=0)
