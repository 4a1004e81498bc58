import pytest

from llmkd.errors import InputError

ORIGINALS = [
    {"question": f"q{i}", "solution": text, "level": i}
    for i, text in enumerate(["so 4 #### 4", "#### 5", "so #### 6", "no number", "#### 8"])
]


@pytest.fixture
def rewritten(curate, write_rows):
    def run(rewrites, **settings):
        columns = {"prompt": "question", "completion": "solution"}
        originals = {"dataset_name": write_rows(ORIGINALS, "originals.jsonl"), "columns": columns}
        step = {"kind": "rewrite_if_correct", "grader": "number", "originals": originals}
        return curate(
            [
                {"prompt": f"rewrite q{number}", "completion": text, "number": number}
                for number, text in rewrites
            ],
            step | settings,
        )

    return run


REWRITES = [
    (0, "four: 4"),
    (1, "it is 6"),
    (1, "no"),
    (3, "3 things"),
    (4, "9"),
    (4, "8"),
    (4, "08"),
]


def test_a_rewrite_is_taken_only_where_it_answers_as_the_original(rewritten):
    found = rewritten(REWRITES)
    assert found.rows == [
        {"prompt": "q0", "completion": "four: 4", "level": 0, "is_rewritten": True, "number": 0},
        {"prompt": "q1", "completion": "#### 5", "level": 1, "is_rewritten": False, "number": 1},
        # Its rewrite was cut short, so the generate stage left it out.
        {"prompt": "q2", "completion": "so #### 6", "level": 2, "is_rewritten": False, "number": 2},
        {"prompt": "q3", "completion": "no number", "level": 3, "is_rewritten": False, "number": 3},
        {"prompt": "q4", "completion": "8", "level": 4, "is_rewritten": True, "number": 4},
    ]
    assert found.step["dropped"] == {
        "answers otherwise": 2,
        "no answer": 1,
        "the original has no answer": 1,
        "another one is taken": 1,
    }
    assert found.step["counted"] == {
        "rewritten": 2,
        "original kept: none agrees": 1,
        "original kept: no rewrite": 1,
        "originals without an answer": 1,
    }


@pytest.mark.parametrize(
    ("unanswered", "fourth"), [("original", "no number"), ("rewrite", "3 things"), ("drop", None)]
)
def test_an_original_without_an_answer_follows_the_option(rewritten, unanswered, fourth):
    rows = {
        row["number"]: row["completion"] for row in rewritten(REWRITES, unanswered=unanswered).rows
    }
    assert rows.get(3) == fourth
    assert len(rows) == (4 if unanswered == "drop" else 5)


def test_rewrites_of_other_originals_are_refused(rewritten):
    with pytest.raises(InputError) as caught:
        rewritten([(0, "4"), (5, "9")])
    assert str(caught.value).startswith(
        "steps.0.originals: a rewrite has number 5, after 5 originals; write the data set that the"
    )


def test_rewrites_without_numbers_are_refused(curate, write_rows):
    originals = {"dataset_name": write_rows([{"prompt": "q", "completion": "4"}], "o.jsonl")}
    step = {"kind": "rewrite_if_correct", "grader": "number", "originals": originals}
    with pytest.raises(InputError, match="the rewrites have no column `number`"):
        curate([{"prompt": "r", "completion": "4"}], step)


def test_a_conversation_keeps_its_turns(curate, write_rows):
    turns = [{"role": "user", "content": "2+2?"}]
    originals = [{"messages": [*turns, {"role": "assistant", "content": "4"}]}]
    step = {
        "kind": "rewrite_if_correct",
        "grader": "number",
        "originals": {"dataset_name": write_rows(originals, "o.jsonl")},
    }
    found = curate([{"prompt": "say 4", "completion": "2 and 2 is 4", "number": 0}], step)
    (row,) = found.rows
    assert row["messages"] == [*turns, {"role": "assistant", "content": "2 and 2 is 4"}]


def test_a_rewrite_makes_the_same_choice_in_other_words(curate, write_rows):
    original = {"prompt": "hot?", "completion": "So the answer is B.", "choices": ["ice", "sun"]}
    step = {"kind": "rewrite_if_correct", "grader": "multiple_choice"}
    step["originals"] = {"dataset_name": write_rows([original], "originals.jsonl")}
    rewrites = [
        {"prompt": "rewrite", "completion": said, "number": 0} for said in ("It is (A).", "Sun.")
    ]
    assert [row["completion"] for row in curate(rewrites, step).rows] == ["Sun."]
