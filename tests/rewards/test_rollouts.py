import pytest
from pydantic import TypeAdapter

from llmkd.errors import DataError
from llmkd.recipe.rewards import Reward
from llmkd.rewards.rollouts import reward_function


def rewards(texts, *, ids=None, reward, **columns):
    function = reward_function(TypeAdapter(Reward).validate_python(reward))
    return function(completions=texts, completion_ids=ids or [[0]] * len(texts), **columns)


def test_an_answer_is_compared_with_its_own_rows():
    found = rewards(
        ["so 12", "the answer is 7.", "12"], reward={"kind": "number"}, answer=["12", "7", "7"]
    )
    assert found == [1.0, 1.0, 0.0]


def test_only_what_follows_the_last_marker_is_an_answer():
    reward = {"kind": "exact_match", "answer_marker": "#"}
    texts = ["8+7=15;#15", "15", "#15;#16", "#15"]
    assert rewards(texts, reward=reward, answer=["15"] * 4) == [1.0, 0.0, 0.0, 1.0]


def test_formulas_are_compared_by_what_they_mean():
    reward = {"kind": "math_verify", "answer_column": "gold"}
    assert rewards([r"\boxed{\frac{2}{4}}"], reward=reward, gold=["1/2"]) == [1.0]


def test_a_choice_is_named_by_its_label():
    columns = {"answer": ["B", "A"], "choices": [["ice", "the sun"], ["ice", "the sun"]]}
    texts = ["so (B)", "so (B)"]
    assert rewards(texts, reward={"kind": "multiple_choice"}, **columns) == [1.0, 0.0]


def test_a_format_is_that_of_the_whole_response_over_all_its_lines():
    reward = {"kind": "format", "pattern": "<think>.*</think>[0-9]+"}
    texts = ["<think>a\nb</think>12", "<think>a</think>12 ", "12"]
    assert rewards(texts, reward=reward) == [1.0, 0.0, 0.0]


def test_a_length_costs_nothing_at_first_and_1_at_the_end():
    # Of 10 tokens the last 4 cost: 6 are free, 8 cost half, 10 and more all.
    reward = {"kind": "length", "max_length": 10, "soft_length": 4}
    ids = [[0] * n for n in (1, 6, 7, 8, 10, 99)]
    assert rewards([""] * 6, ids=ids, reward=reward) == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_of_a_conversation_it_is_the_answer_that_counts():
    turns = [{"role": "assistant", "content": "12"}]
    assert rewards([turns], reward={"kind": "number"}, answer=[12]) == [1.0]


@pytest.mark.parametrize("columns", [{}, {"answer": [None]}])
def test_a_row_without_an_answer_is_told_with_what_to_write(columns):
    with pytest.raises(DataError, match=r"keep_columns: .*'answer'.*rewards.answer_column"):
        rewards(["1"], reward={"kind": "number"}, **columns)


def test_functions_are_logged_by_their_kinds():
    function = reward_function(TypeAdapter(Reward).validate_python({"kind": "number"}))
    assert function.__name__ == "number"
