import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmkd.errors import DataError
from llmkd.evaluation.questions import read_questions
from llmkd.recipe.reasoning import QuestionRows


@pytest.fixture
def rows_of(tmp_path):
    def make(*rows, **settings):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return QuestionRows(dataset_name=str(path), **settings)

    return make


@pytest.mark.parametrize(
    "row",
    [
        {"question": "1+1?", "answer": "#### 2", "rationale": "so"},
        {"problem": "1+1?", "answer": "#### 2", "solution": "so"},
        {"Question": "1+1", "question_concat": "1+1?", "Answer": "#### 2"},
        {"question": "1+1?", "final_ans": "#### 2"},
    ],
)
def test_the_usual_columns_are_found(rows_of, row):
    (found,) = read_questions(rows_of(row), "number")
    assert (found.text, found.solution, found.reference) == ("1+1?", "#### 2", "#### 2")


def test_a_named_column_is_taken_and_no_other(rows_of):
    row = {"question": "q", "asked": "a", "answer": "1"}
    (found,) = read_questions(rows_of(row, columns={"question": "asked"}), "number")
    assert found.text == "a"
    expected = (
        r"no column title for question; its columns are question, asked, answer; "
        r"write columns: \{question: NAME\}, or --columns TASK.question=NAME"
    )
    with pytest.raises(DataError, match=expected):
        read_questions(rows_of(row, columns={"question": "title"}), "number")


def test_a_missing_column_says_which_are_there(rows_of):
    expected = (
        r"no column question or problem or question_concat for question; its columns are q, a;"
    )
    with pytest.raises(DataError, match=expected):
        read_questions(rows_of({"q": "?", "a": "1"}), "number")
    with pytest.raises(DataError, match="no column choices for choices"):
        read_questions(rows_of({"question": "?", "answer": "A"}), "multiple_choice")


def test_choices_are_read_in_each_of_their_forms(rows_of):
    forms = [
        {"choices": ["ice", "sun"], "labels": ["1", "2"], "answerKey": "2"},
        {"choices": {"text": ["ice", "sun"], "label": ["1", "2"]}, "answerKey": "2"},
        # By its words.
        {"choices": ["ice", "sun"], "labels": ["1", "2"], "answer": "sun"},
    ]
    for row in forms:
        (found,) = read_questions(rows_of({"question": "?"} | row), "multiple_choice")
        assert (found.choices, found.labels) == (("ice", "sun"), ("1", "2"))
        assert (found.reference, found.solution) == ("2", "(2)")
    (found,) = read_questions(
        rows_of({"question": "?", "choices": ["ice", "sun"], "answer": "B"}), "multiple_choice"
    )
    assert found.labels == ("A", "B")


def test_choices_may_be_the_same_for_all_rows(rows_of):
    rows = [{"question": "?", "answer": answer} for answer in (True, False, "no")]
    found = read_questions(rows_of(*rows, choices=["yes", "no"]), "multiple_choice")
    assert [one.reference for one in found] == ["yes", "no", "no"]
    assert {one.labels for one in found} == {("yes", "no")}
    assert found[0].solution == "yes"


def test_answers_may_be_numbers_and_parquet_has_the_same_rows(rows_of, tmp_path):
    rows = [{"problem": "?", "answer": 142.0, "x": 1}, {"problem": "!", "answer": 7.5, "x": 2}]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = read_questions(QuestionRows(dataset_name=str(path)), "number")
    assert found == read_questions(rows_of(*rows), "number")
    assert [one.reference for one in found] == ["142.0", "7.5"]


@pytest.mark.parametrize(
    ("row", "grader", "message"),
    [
        ({"question": "", "answer": "1"}, "number", "question of row 2 is not text: ''"),
        ({"question": "?", "answer": None}, "number", "answer of row 2 is not text or a number"),
        ({"question": "?", "answer": "none"}, "number", "answer of row 2 is not a number, which"),
        (
            {"question": "?", "answer": "C", "choices": ["a", "b"]},
            "multiple_choice",
            "answer of row 2 is not one of A, B: 'C'",
        ),
        (
            {"question": "?", "answer": "A", "choices": ["a", "b"], "labels": ["A"]},
            "multiple_choice",
            "labels of row 2 is not a list of 2 texts",
        ),
        (
            {"question": "?", "answer": "A", "choices": "ab"},
            "exact_match",
            "choices of row 2 is not",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(rows_of, row, grader, message):
    good = {"question": "?", "answer": "1", "choices": ["1", "2"]}
    with pytest.raises(DataError, match=message):
        read_questions(rows_of(good | dict.fromkeys(set(row) - set(good)), row), grader)


def test_an_empty_file_is_refused_and_only_the_first_rows_are_read(rows_of):
    with pytest.raises(DataError, match="the data set is empty; name one with rows"):
        read_questions(rows_of(), "number")
    rows = [{"question": str(i), "answer": i} for i in range(5)]
    assert len(read_questions(rows_of(*rows, num_examples=2), "number")) == 2


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "grader", "count"),
    [
        ("gsm8k", "number", 7473),
        ("svamp", "number", 700),
        ("commonsense_qa", "multiple_choice", 9741),
    ],
)
def test_real_files_are_read_as_they_are(real_data, name, grader, count):
    source = QuestionRows(dataset_name=str(real_data / name / "train.jsonl"))
    found = read_questions(source, grader)
    assert len(found) == count
    assert all(one.text and one.reference for one in found)
