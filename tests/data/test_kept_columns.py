"""Columns that go along with a teacher's prompts."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.data.kept_columns import kept_columns
from llmkd.data.sources import iter_rows
from llmkd.errors import DataError
from llmkd.recipe.data import AdditionTask, NamedIntentPrompts, PromptRows, PromptTask

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text("ab"), inside, max_size=3)
    ),
    max_leaves=6,
)


def source(*names, path="rows.jsonl", **fields):
    return PromptRows(dataset_name=str(path), keep_columns=list(names), **fields)


def kept(row, *names):
    return json.loads(kept_columns(row, 1, source(*names))["kept"])


@given(JSON)
def test_any_json_comes_back_unchanged(value):
    assert kept({"x": value, "other": 1}, "x") == {"x": value}


def test_columns_keep_the_order_of_the_recipe():
    assert list(kept({"a": 1, "b": 2, "c": 3}, "c", "a")) == ["c", "a"]


def test_nothing_goes_along_where_nothing_is_kept():
    assert kept_columns({"a": 1}, 1, source()) == {}
    assert kept_columns({"a": 1}, 1, AdditionTask(kind="task", num_examples=1)) == {}


@pytest.mark.parametrize("bad", [float("nan"), b"x", datetime.date(2000, 1, 1), "\ud83d half"])
def test_what_is_no_json_is_refused_with_its_row(bad):
    with pytest.raises(DataError, match=r"data\.keep_columns: row 7: x: no JSON \(.*\); write"):
        kept_columns({"x": bad}, 7, source("x"))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_bring_their_columns_along(tmp_path, suffix):
    rows = [{"prompt": f"p{i}", "label": i / 2, "text": None, "picture": "..."} for i in range(3)]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    found = list(iter_rows(source("label", "text", path=path), seed=0, need="prompt"))
    assert [row.keys() for row in found] == [{"prompt", "kept"}] * 3
    expected = [{"label": i / 2, "text": None} for i in range(3)]
    assert [json.loads(row["kept"]) for row in found] == expected


def test_columns_are_read_beside_those_that_a_prompt_file_has_places_for(tmp_path):
    (tmp_path / "p.txt").write_text("{question}?")
    # Of a Parquet file, no others are read.
    table = pa.Table.from_pylist([{"question": "q", "gold": 1, "other": 2}])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    from_file = source("gold", path=tmp_path / "rows.parquet", prompt_file=str(tmp_path / "p.txt"))
    (row,) = iter_rows(from_file, seed=0, need="prompt")
    assert row == {"prompt": "q?", "kept": '{"gold": 1}'}


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": 1}\n{"prompt": "b", "gold": 1}\n')
    said = r"data\.keep_columns: row 2 has no `answer`; its columns are prompt, gold; write some of"
    with pytest.raises(DataError, match=said):
        list(iter_rows(source("answer", path=path), seed=0, need="prompt"))


def test_of_a_sum_the_answer_and_the_steps_can_be_kept():
    fields = {"kind": "task", "num_examples": 1, "digits": 2, "steps": "rationale"}
    (row,) = iter_rows(
        PromptTask(keep_columns=["answer", "rationale"], **fields), seed=0, need="prompt"
    )
    (whole,) = iter_rows(AdditionTask(**fields | {"steps": "completion"}), seed=0)
    columns = json.loads(row["kept"])
    assert row["prompt"] == whole["prompt"]
    assert f"{columns['rationale']}#{columns['answer']}" == whole["completion"]


def test_of_a_named_intent_the_answer_can_be_kept():
    task = NamedIntentPrompts(
        kind="task", task="named_intents", num_examples=3, keep_columns=["answer"]
    )
    whole = list(iter_rows(task, seed=0))
    asked = list(iter_rows(task, seed=0, need="prompt"))
    assert [row["prompt"] for row in asked] == [row["prompt"] for row in whole]
    answers = [json.loads(row["kept"])["answer"] for row in asked]
    assert answers == [row["completion"] for row in whole]
