import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.rewards.exact import (
    UNANSWERED,
    boxed_answer,
    exact_match,
    marked_answer,
    normalised,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        # What was cut has no end, so the one before it counts.
        (r"\boxed{1}, or rather \boxed{2", "1"),
        (r"\fbox{yes}", "yes"),
        # A box is surer than ####, and that than words.
        (r"The answer is 3. #### 4 \boxed{5}", "5"),
        ("The answer is 3.\n#### 4\nand so on", "4"),
        ("#### 4\n#### 6", "6"),
        ("The answer is 3.5. I am sure.", "3.5"),
        ("**Answer:** 7", "7"),
        ("**Final answer**: **7**", "7**"),
        ("Answer:\n7", "7"),
        ("so the answer is: (B)", "(B)"),
        ("the answer is 1. No, the answer is 2.", "2"),
        ("I cannot answer.", None),
        (r"\boxed{}", None),
        ("####", None),
        ("", None),
    ],
)
def test_the_surest_mark_counts_and_of_equal_ones_the_last(text, answer):
    assert marked_answer(text) == answer


@given(st.lists(st.sampled_from([r"\boxed{", r"\fbox {", "{", "}", "a", r"\box"]), max_size=12))
def test_the_last_box_that_is_closed_is_the_answer(parts):
    text = "".join(parts)
    ends = [match.end() for match in re.finditer(r"\\f?box(?:ed)?\s*\{", text)]
    # Each prefix of what follows a box in which as many braces close as open, and one more.
    closed = [
        text[start:end]
        for start in ends
        for end in range(start, len(text))
        if text[end] == "}" and text[start:end].count("{") == text[start:end].count("}")
        if all(text[start:k].count("{") >= text[start:k].count("}") for k in range(start, end))
    ]
    assert boxed_answer(text) == (closed[-1] if closed else None)


def test_thousands_of_boxes_that_are_open_take_no_time():
    # One after another, this would take an hour.
    assert boxed_answer(r"\boxed{" * 30_000 + "1}") == "1"


def test_marks_around_an_answer_make_no_difference():
    for text in (
        "the moon",
        "**The  Moon**.",
        '"the moon"',
        "`the moon`!",
        "$The Moon$",
        " the\nmoon ",
    ):
        assert exact_match(text, "The moon").is_right, text
    assert not exact_match("the moons", "The moon").is_right
    # A sign and a decimal point at the beginning belong to the answer.
    assert not exact_match("5", "-5").is_right
    assert not exact_match("5", ".5").is_right


def test_an_answer_that_is_marked_is_not_confused_by_what_is_around_it():
    assert exact_match("Paris? No: the answer is Rome.", "#### Rome").is_right
    assert not exact_match("Rome? No: the answer is Paris.", "Rome").is_right


@pytest.mark.parametrize("text", ["", "  \n", "...", '"'])
def test_nothing_is_no_answer(text):
    assert exact_match(text, "x") == UNANSWERED


@given(st.text())
def test_normalising_twice_is_normalising_once(text):
    once = normalised(text)
    assert normalised(once) == once
