import json

import pytest

from llmkd.errors import InputError

NUMBER = {"kind": "verify", "grader": "number"}


def test_right_answers_stay_with_all_their_columns_and_the_others_are_counted(curate, answered):
    rows = answered(("so it is 4", "4"), ("it is 5", "4"), ("I pass", "4"), ("\\boxed{2/4}", "0.5"))
    found = curate(rows, NUMBER)
    assert found.rows == [rows[0], rows[3]]
    assert found.step == {
        "kind": "verify",
        "num_in": 4,
        "num_out": 2,
        "dropped": {"wrong": 1, "no answer": 1},
        "counted": {},
    }
    assert (found.manifest["num_in"], found.manifest["num_out"]) == (4, 2)


def test_all_rows_may_stay_and_say_which_are_right(curate, answered):
    found = curate(answered(("4", "4"), ("5", "4"), ("no", "4")), NUMBER | {"keep": "all"})
    assert [row["is_right"] for row in found.rows] == [True, False, False]
    assert found.step["dropped"] == {}
    assert found.step["counted"] == {"right": 1, "wrong": 1, "no answer": 1}


def test_the_answer_may_stand_behind_a_mark_of_its_own(curate):
    # As in the addition task: without the mark, 12 would be the last number of the first row.
    rows = [
        {"prompt": "05+7=", "completion": said, "gold": "5+7+0=12;#012"}
        for said in ("#012 (that is 5+7)", "5+7+0=12;", "5+7+0=12;#012", "#12;#013")
    ]
    step = {"kind": "verify", "grader": "exact_match", "reference": "gold", "answer_marker": "#"}
    found = curate(rows, step)
    assert [row["completion"] for row in found.rows] == ["5+7+0=12;#012"]
    assert found.step["dropped"] == {"wrong": 2, "no answer": 1}


def test_choices_come_from_the_rows_as_a_list_or_as_a_mapping(curate):
    choices = {"text": ["ice", "the sun"], "label": ["1", "2"]}
    rows = [
        {"prompt": "hot?", "completion": "The answer is (B).", "answer": "B", "choices": ["ice", "sun"]},
        {"prompt": "hot?", "completion": "The answer is (A).", "answer": "sun", "choices": ["ice", "sun"]},
        {"prompt": "hot?", "completion": "It is the sun.", "answer": "2", "choices": choices},
        {"prompt": "hot?", "completion": "(B)", "answer": "sun", "choices": ["ice", "sun"]},
    ]  # fmt: skip
    found = curate(rows, {"kind": "verify", "grader": "multiple_choice"})
    assert found.rows == [rows[0], *rows[2:]]


def test_the_reference_may_be_a_text_that_makes_a_choice(curate):
    # In the last one the choices are letters too: a label goes before a choice.
    references = ["The answer is B.", "b", "(B)", "Sun", "the sun", "B"]
    rows = [
        {"prompt": "hot?", "completion": said, "answer": right, "choices": ["ice", "sun"]}
        for right in references
        for said in ("The answer is (B).", "The answer is (A).")
    ]
    rows[-2]["choices"] = rows[-1]["choices"] = ["B", "A"]
    found = curate(rows, {"kind": "verify", "grader": "multiple_choice"})
    assert found.rows == rows[::2]


def test_formulas_are_compared_by_math_verify(curate, answered):
    rows = answered((r"\boxed{\frac{2}{4}}", r"$\frac12$"), (r"\boxed{x+2}", r"2+x"), ("$3$", "4"))
    found = curate(rows, {"kind": "verify", "grader": "math_verify"})
    assert found.rows == rows[:2]
    assert not (found.folder / "journal").exists()


def test_the_assistants_last_turn_is_what_is_verified(curate):
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    rows = [{"messages": turns, "answer": 4}, {"messages": turns, "answer": 5}]
    assert curate(rows, NUMBER).rows == rows[:1]


@pytest.mark.parametrize(
    ("row", "step", "message"),
    [
        (
            {"prompt": "p", "completion": "4"},
            {},
            "steps.0.reference: the rows have no column `answer`, but prompt, completion; write one "
            "of these, or name it in the generate stage's keep_columns",
        ),
        (
            {"prompt": "p", "completion": "4", "answer": None},
            {},
            "steps.0.reference: a row's right answer is None; write text or a number there, or leave "
            "the row out",
        ),
        (
            {"prompt": "p", "completion": "4", "answer": "four"},
            {},
            "steps.0.grader: number finds none in the reference 'four'; write another grader",
        ),
        (
            {"prompt": "p", "completion": "A", "answer": "fog", "choices": ["ice", "sun"]},
            {"grader": "multiple_choice"},
            "steps.0.grader: multiple_choice finds none in the reference 'fog'; write another grader",
        ),
        (
            {"prompt": "p", "answer": "4"},
            {},
            "steps.0.kind: a row has no answer: its columns are prompt, answer; write rows with",
        ),
        (
            {"prompt": "p", "completion": "A", "answer": "A", "choices": "ice"},
            {"grader": "multiple_choice"},
            "steps.0.choices_column: a row has ice there, which is no list of texts; write one",
        ),
    ],
)
def test_rows_that_cannot_be_verified_are_refused(curate, row, step, message):
    with pytest.raises(InputError) as caught:
        curate([row], NUMBER | step)
    assert message in str(caught.value)


def test_a_step_that_drops_every_row_is_named_with_its_reasons(curate, answered, tmp_path):
    rows = answered(("5", "4"), ("6", "4"), ("none", "4"))
    with pytest.raises(InputError) as caught:
        curate(rows, {"kind": "length"}, NUMBER)
    assert str(caught.value) == (
        "steps.1: verify drops all 3 rows (wrong: 2, no answer: 1); write a step that keeps some, "
        "or other data"
    )
    assert not list((tmp_path / "stage").glob("*.json*"))


def test_no_rows_at_all_are_refused(curate):
    with pytest.raises(InputError, match="there is no row to curate; name a data set with rows"):
        curate([], NUMBER)


def test_a_verdict_is_kept_as_it_comes_and_not_asked_for_again(
    curate, answered, monkeypatch, tmp_path
):
    from llmkd.curation import answers

    rows = answered(*[(f"${i}$", str(i % 2)) for i in range(8)])
    step = {"kind": "verify", "grader": "math_verify"}
    whole = curate(rows, step, name="whole")
    asked, judge = [], answers.math_verify

    def stopping(text, reference):
        asked.append(text)
        if len(asked) == 5:
            # On the disk already, as a kill would find it.
            journal = tmp_path / "stage/journal/0.jsonl"
            assert journal.read_bytes().count(b"\n") == 4
            raise KeyboardInterrupt
        return judge(text, reference)

    monkeypatch.setattr(answers, "math_verify", stopping)
    with pytest.raises(KeyboardInterrupt):
        curate(rows, step)
    found = curate(rows, step)
    assert asked == [f"${i}$" for i in (0, 1, 2, 3, 4, 4, 5, 6, 7)]
    assert (found.folder / "data.jsonl").read_bytes() == (whole.folder / "data.jsonl").read_bytes()
    assert found.step == whole.step
    assert json.dumps(found.rows) == json.dumps(rows[:2])
