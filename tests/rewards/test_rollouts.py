import pytest
from pydantic import TypeAdapter

from llmkd.errors import DataError
from llmkd.recipe.rewards import Reward
from llmkd.rewards import rollouts
from llmkd.rewards.rollouts import reward_function, reward_functions


def rewards(texts, *, ids=None, reward, **columns):
    function = reward_function(TypeAdapter(Reward).validate_python(reward))
    return function(completions=texts, completion_ids=ids or [[0]] * len(texts), **columns)


def test_an_answer_is_compared_with_its_own_rows():
    found = rewards(
        ["so 12", "the answer is 7.", "12"], reward={"kind": "number"}, answer=["12", "7", "7"]
    )
    assert found == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("kind", ["exact_match", "math_verify"])
def test_only_what_follows_the_last_marker_is_an_answer(kind):
    reward = {"kind": kind, "answer_marker": "#"}
    texts = ["8+7=15;#15", "15", "#15;#16", "#15"]
    assert rewards(texts, reward=reward, answer=["15"] * 4) == [1.0, 0.0, 0.0, 1.0]


def test_formulas_are_compared_by_what_they_mean():
    reward = {"kind": "math_verify", "answer_column": "gold"}
    assert rewards([r"\boxed{\frac{2}{4}}"], reward=reward, gold=["1/2"]) == [1.0]


@pytest.mark.parametrize(
    ("right", "choices"),
    [
        ("B", ["ice", "the sun"]),
        ("the sun", ["ice", "the sun"]),
        ("B", {"text": ["ice", "the sun"], "label": ["A", "B"]}),
        (30, [20, 30]),
    ],
)
def test_a_choice_is_right_by_its_label_or_its_text(right, choices):
    columns = {"answer": [right] * 2, "choices": [choices] * 2}
    texts = ["so (B)", "so (A)"]
    assert rewards(texts, reward={"kind": "multiple_choice"}, **columns) == [1.0, 0.0]


def test_choices_may_have_labels_of_their_own():
    columns = {"answer": ["2"], "choices": [{"text": ["ice", "the sun"], "label": ["1", "2"]}]}
    assert rewards(["so (2)"], reward={"kind": "multiple_choice"}, **columns) == [1.0]


def test_a_format_is_that_of_the_whole_response_over_all_its_lines():
    reward = {"kind": "format", "pattern": "<think>.*</think>[0-9]+"}
    texts = ["<think>a\nb</think>12", "<think>a</think>12 ", "12"]
    assert rewards(texts, reward=reward) == [1.0, 0.0, 0.0]


def test_a_length_costs_nothing_at_first_and_1_at_the_end():
    # Of 10 tokens the last 4 cost: 6 are free, 8 cost half, 10 and more all.
    reward = {"kind": "length", "max_length": 10, "soft_length": 4}
    ids = [[0] * n for n in (1, 6, 7, 8, 10, 99)]
    assert rewards([""] * 6, ids=ids, reward=reward) == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "sum"}}]}


@pytest.mark.parametrize(
    ("turns", "reward"),
    [
        ([{"role": "assistant", "content": "12"}], 1.0),
        ([{"role": "assistant", "content": [{"type": "text", "text": "12"}]}], 1.0),
        ([CALL, {"role": "tool", "content": "5"}, {"role": "assistant", "content": "12"}], 1.0),
        # What a tool says is not the student's answer.
        ([CALL, {"role": "tool", "content": "12"}], 0.0),
        ([{"role": "assistant", "content": "12"}, CALL], 0.0),
        ([{"role": "assistant", "reasoning_content": "12"}], 0.0),
        ([], 0.0),
    ],
)
def test_of_a_conversation_it_is_the_assistants_last_word_that_counts(turns, reward):
    assert rewards([turns], reward={"kind": "number"}, answer=[12]) == [reward]


@pytest.mark.parametrize("kind", ["number", "exact_match", "math_verify"])
@pytest.mark.parametrize("answer", [12, "12", 12.0])
def test_an_answer_may_be_a_number(kind, answer):
    assert rewards([f"it is #### {answer}"], reward={"kind": kind}, answer=[answer]) == [1.0]


@pytest.mark.parametrize("columns", [{}, {"answer": [None]}])
@pytest.mark.parametrize("kind", ["number", "math_verify"])
def test_a_row_without_an_answer_is_told_with_what_to_write(columns, kind):
    told = r"keep_columns: reward_funcs.0 reads .*'answer'.*reward_funcs.0.answer_column"
    with pytest.raises(DataError, match=told):
        rewards(["1"], reward={"kind": kind}, **columns)


@pytest.mark.parametrize(
    ("reward", "columns", "told"),
    [
        ("number", {"answer": "none"}, "'none' .* not a number"),
        ("number", {"answer": [1]}, "not text or a number"),
        ("exact_match", {"answer": " "}, "not text or a number"),
        ("exact_match", {"answer": True}, "not text or a number"),
        ("multiple_choice", {"answer": "C", "choices": ["a", "b"]}, "one of A, B"),
        ("multiple_choice", {"answer": 1, "choices": ["a", "b"]}, "'1' .* one of A, B"),
        ("multiple_choice", {"answer": "A", "choices": "ab"}, "not a list of texts"),
        ("multiple_choice", {"answer": "A", "choices": {"text": ["a"], "label": []}}, "not a list"),
    ],
)
def test_a_row_with_a_wrong_answer_is_told_with_its_value(reward, columns, told):
    with pytest.raises(DataError, match=rf"reward_funcs\.0 reads .*{told}"):
        rewards(["1"], reward={"kind": reward}, **{name: [x] for name, x in columns.items()})


def test_functions_are_logged_by_their_names_and_else_their_kinds():
    written = [{"kind": "number"}, {"kind": "number", "name": "sum"}]
    functions = reward_functions(TypeAdapter(list[Reward]).validate_python(written))
    assert [function.__name__ for function in functions] == ["number", "sum"]


HANGING = "a" * 40
NESTED = r"\boxed{" + "(" * 3000 + "1" + ")" * 3000 + "}"


@pytest.mark.parametrize(
    ("reward", "texts"),
    [
        ({"kind": "format", "pattern": "(a+)+b"}, ["aab", HANGING, "b", "ab"]),
        (
            {"kind": "math_verify"},
            [r"\boxed{5}", r"\boxed{9^{9^{9^9}}}", NESTED, r"\boxed{\frac{10}{2}}"],
        ),
    ],
)
def test_text_that_takes_for_ever_earns_0_and_is_counted(reward, texts, monkeypatch, capsys):
    monkeypatch.setattr(rollouts, "SECONDS", 2.0)
    log = {}
    found = rewards(texts, reward=reward, answer=[5] * 4, log_metric=log.__setitem__)
    assert found == [1.0, 0.0, 0.0, 1.0]
    hung = 1 if reward["kind"] == "format" else 2
    assert log == {f"rewards/{reward['kind']}/errors": hung / 4}
    assert f"{reward['kind']} took more than 2 s; this earns 0" in capsys.readouterr().err
