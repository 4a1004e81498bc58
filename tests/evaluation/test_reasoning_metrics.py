from itertools import combinations
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.evaluation.reasoning_metrics import avg_at_k, majority, pass_at_k
from llmkd.rewards.exact import UNANSWERED, Grade

samples = st.lists(st.booleans(), min_size=1, max_size=9)


@given(samples, st.data())
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(is_right, data):
    k = data.draw(st.integers(1, len(is_right)))
    enumerated = mean(float(any(chosen)) for chosen in combinations(is_right, k))
    assert pass_at_k(len(is_right), sum(is_right), k) == pytest.approx(enumerated, abs=1e-12)


@given(samples)
def test_one_of_one_sample_is_the_mean_of_all(is_right):
    n = len(is_right)
    assert pass_at_k(n, sum(is_right), 1) == pytest.approx(avg_at_k(is_right, n))
    assert pass_at_k(n, sum(is_right), n) == float(any(is_right))


def test_pass_at_k_of_many_samples_is_exact():
    # 1 - C(990, 500) / C(1000, 500), of numbers that no float holds; near 1 - 2^-10.
    assert pass_at_k(1000, 10, 500) == pytest.approx(1 - 2**-10, abs=1e-4)


def test_the_mean_looks_at_the_first_k():
    assert avg_at_k([True, False, True, True], 2) == 0.5


def grades(*answers):
    return [Grade(answer, answer == "right") if answer else UNANSWERED for answer in answers]


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["a", "right", "right"], "right"),
        (["right", "a", "a"], "a"),
        # Equally many: the one that came first.
        (["a", "right"], "a"),
        (["right", "a"], "right"),
        (["a", "right", "right", "a"], "a"),
        # No answer has no vote.
        ([None, None, "right"], "right"),
        ([None, None], None),
    ],
)
def test_the_most_frequent_answer_wins(answers, winner):
    grade = majority(grades(*answers))
    assert (grade.answer, grade.is_right) == (winner, winner == "right")
