import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.rewards.exact import UNANSWERED
from llmkd.rewards.multiple_choice import chosen_label, multiple_choice

LABELS = ["A", "B", "C"]
CHOICES = ["ice", "ice cream", "a hot day"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. ice cream", "B"),
        ("B) because", "B"),
        ("**B**", "B"),
        ("b", "B"),
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"\boxed{\text{(B)}}", "B"),
        ("Not (A). The answer is (C).", "C"),
        ("The answer is C", "C"),
        ("The answer is ice cream, of course.", "B"),
        ("The answer is ice.", "A"),
        ("#### B", "B"),
        # No letter, but an article.
        ("A cat is (B)", "B"),
        ("A cat likes fish", None),
        ("(A) is wrong, and so it must be (B)", "B"),
        ("The answer is B because it is cold", "B"),
        ("The answer is A because it is cold", "A"),
        ("Answer: option B", "B"),
        ("The correct option is B", "B"),
        ("Choose option B, which melts", "B"),
        ("Therefore, B is correct.", "B"),
        ("Hence A is the right one", "A"),
        ("(b)", "B"),
        ("So it is (b), I think", "B"),
        ("The answer is (b). I also looked at (a).", "B"),
        (r"\boxed{\mathrm{B}}", "B"),
        (r"$\boxed{\mathbf{(B)}}$", "B"),
        # What is denied is not chosen.
        ("The answer is not (A).", None),
        ("The answer is not (A), so (C)", "C"),
        ("The correct option is not B", None),
        ("It isn't option B", None),
        ("Option A is wrong. Choose option C", "C"),
        ("I take option C: option B is not right", "C"),
        ("The answer is not ice", None),
        # An article after the words, and letters that are part of others.
        ("The answer is A cold one", None),
        ("The answer is B-like", None),
        ("The answer is Bread", None),
        ("the plural(s) of f(a)", None),
        ("It could be (A), but I take (B)", "B"),
        ("I think of it.\nIt is a hot day", "C"),
        # Two of them are named.
        ("Ice, or a hot day", "A"),
        ("Either ice or a hot day", None),
        # A mark that says nothing is passed over.
        ("The answer is clear. It must be (B)", "B"),
        ("(D)", None),
        ("", None),
    ],
)
def test_a_choice_is_found_where_people_write_it(text, label):
    assert chosen_label(text, labels=LABELS, choices=CHOICES) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Yes.", "yes"),
        ("no", "no"),
        ("Nobody knows", None),
        ("No, as fish swim.", "no"),
        ("Fish swim. So the answer is yes.", "yes"),
        ("Fish swim.\nSo: no.", "no"),
        ("yes and no", "yes"),
        ("It is yes and no", None),
    ],
)
def test_words_may_be_labels(text, label):
    assert chosen_label(text, labels=["yes", "no"], choices=["yes", "no"]) == label


def test_no_choice_is_no_answer():
    assert multiple_choice("?", "A", labels=LABELS, choices=CHOICES) == UNANSWERED
    assert multiple_choice("(B)", "B", labels=LABELS, choices=CHOICES).is_right
    assert not multiple_choice("(B)", "A", labels=LABELS, choices=CHOICES).is_right


@given(
    st.sampled_from(LABELS), st.sampled_from(["({})", "The answer is {}.", r"\boxed{{{}}}", "{}"])
)
def test_every_label_is_found_in_every_form(label, form):
    assert chosen_label(form.format(label), labels=LABELS, choices=CHOICES) == label


@pytest.mark.real_data
def test_the_words_of_every_real_choice_are_that_choice(real_data):
    path = real_data / "commonsense_qa" / "train.jsonl"
    for line in path.read_text(encoding="utf-8").split("\n")[:500]:
        row = json.loads(line)
        labels, choices = row["labels"], row["choices"]
        for choice in choices:
            found = chosen_label(f"The answer is {choice}.", labels=labels, choices=choices)
            assert found is not None
            assert choices[labels.index(found)] == choice, row
