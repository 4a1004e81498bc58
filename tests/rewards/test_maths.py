import json
import threading
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.errors import InputError
from llmkd.evaluation.reasoning_metrics import majority
from llmkd.rewards import maths
from llmkd.rewards.exact import UNANSWERED
from llmkd.rewards.maths import math_verify, number, number_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### 72", 72),
        ("48/2 = 24, so 72 clips", 72),
        ("1,234,567", 1234567),
        ("$1,234.50", "1234.5"),
        # No thousands: a list of two numbers.
        ("1,23", 23),
        ("-5", -5),
        ("\N{MINUS SIGN}5", -5),
        ("-$5", -5),
        ("$-5", -5),
        # A minus between two terms is no sign.
        ("10-3", 3),
        ("x-3", 3),
        ("it is 0.5", "0.5"),
        (".5", "0.5"),
        ("1.5e+06", 1500000),
        ("3 eggs", 3),
        ("3/4", "3/4"),
        (r"\frac{3}{4}", "3/4"),
        (r"\dfrac34", "3/4"),
        (r"-\frac{3}{4}", "-3/4"),
        ("1 1/2 cups", "3/2"),
        ("-1 1/2", "-3/2"),
        ("50%", 50),
        (r"\boxed{50\%}", 50),
        (r"\boxed{1{,}000}", 1000),
        ("#### 18 dollars", 18),
        ("The answer is 5, of 10.", 5),
        ("The answer is Tom, who has 3 of 4", 3),
        # A mark without a number in it is not looked at further.
        ("The answer is clear. 8 apples.", 8),
        # Spaces between groups of three digits.
        (r"\boxed{1\,234}", 1234),
        (r"\boxed{12\;345\,678}", 12345678),
        (r"\boxed{\frac{1\,234}{5}}", "1234/5"),
        ("The answer is 1 234.", 1234),
        ("The answer is -1\u202f234.5 m", "-1234.5"),
        ("in 2020 100 left", 100),
        ("1 23", 23),
        ("0.5 100", 100),
        ("0 100", 100),
        ("1 234 5678", 5678),
        # Powers of whole numbers.
        (r"\boxed{10^6}", 10**6),
        (r"\boxed{2^{10}}", 1024),
        (r"\boxed{-2^2}", -4),
        (r"\boxed{10^{-3}}", "1/1000"),
        (r"\boxed{3 \times 10^{8}}", 3 * 10**8),
        (r"\boxed{1.5\cdot10^{-3}}", "0.0015"),
        (r"\boxed{\frac{1}{2^{3}}}", "1/8"),
        (r"\boxed{2^{100}}", None),
        ("0^-1", None),
        ("(-2)^2", None),
        ("1.5^2", None),
        ("9" * 5000 + "^9", None),
        ("it is 25 cm^2", 25),
        (r"\boxed{90^\circ}", 90),
        ("42.", 42),
        ("5/0", 0),
        ("12:30", 30),
        ("no number", None),
        ("", None),
        ("1" * 5000, None),
    ],
)
def test_a_number_is_found_where_people_write_it(text, value):
    assert number_of(text) == (None if value is None else Fraction(value))


@given(st.fractions(min_value=-(10**6), max_value=10**6))
def test_every_fraction_is_read_as_it_is_written(value):
    assert number_of(f"so it is {value}.") == value
    latex = rf"\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    assert number_of(rf"\boxed{{{'-' if value < 0 else ''}{latex}}}") == value


@given(st.integers(-(10**12), 10**12), st.integers(0, 99))
def test_thousands_separators_and_currency_make_no_difference(whole, cents):
    sign = "-" if whole < 0 else ""
    text = f"{sign}${abs(whole):,}.{cents:02}"
    expected = Fraction(abs(whole) * 100 + cents, 100) * (-1 if whole < 0 else 1)
    assert number_of(f"It costs {text} in all") == expected


def test_numbers_that_are_equal_are_one_answer():
    assert {number(text, "1/2") for text in ("0.5", "1/2", r"\frac{2}{4}", ".50")} == {
        number("0.5", "0.5")
    }
    assert number("0.333", "1/3") == maths.Grade("333/1000", is_right=False)
    assert number("nothing", "1") == UNANSWERED


def test_a_reference_without_a_number_is_refused():
    with pytest.raises(InputError, match=r"answer 'none': no number in it; write one, or another"):
        number("1", "none")


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "count"), [("gsm8k", 7473), ("svamp", 700)])
def test_every_real_answer_is_right_and_with_another_number_wrong(real_data, name, count):
    lines = (real_data / name / "train.jsonl").read_text(encoding="utf-8").strip().split("\n")
    answers = [json.loads(line)["answer"] for line in lines]
    assert len(answers) == count
    assert all(number(answer, answer).is_right for answer in answers)
    for answer in answers:
        changed, end = answer.rpartition("#### ")[::2]
        changed = f"{changed}#### {float(end.replace(',', '')) + 1}"
        assert not number(changed, answer).is_right, answer
        # Only the last line counts: the numbers of the reasoning are those of the reference.
        assert number(changed, changed).is_right


@pytest.mark.parametrize(
    ("text", "reference", "is_right"),
    [
        (r"so \boxed{\frac{1}{2}}", r"\frac{1}{2}", True),
        (r"\boxed{0.5}", r"\frac{1}{2}", True),
        (r"\boxed{\frac12}", "0.5", True),
        (r"\boxed{\frac{1}{3}}", r"\frac{1}{2}", False),
        (r"\boxed{1,234}", "1234", True),
        (r"\boxed{-3}", "-3", True),
        (r"\boxed{3}", "-3", False),
        (r"\boxed{50\%}", "50", True),
        (r"\boxed{50\%}", "0.5", True),
        (r"\boxed{10 \text{ cm}}", "10", True),
        (r"\boxed{x=3}", "3", True),
        (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", True),
        (r"the answer is $2\sqrt{3}$.", r"2\sqrt{3}", True),
        (r"\boxed{(x+1)^2}", "x^2+2x+1", True),
        (r"\boxed{(x-1)^2}", "x^2+2x+1", False),
        (r"\boxed{\left(3, \frac{\pi}{2}\right)}", r"\left( 3, \frac{\pi}{2} \right)", True),
        (r"\boxed{(1,2)}", "(2,1)", False),
        (r"\boxed{p - q}", "p - q", True),
        (r"\boxed{q - p}", "p - q", False),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", True),
        ("#### 72 apples", "72", True),
        ("the answer is 72 apples", "72", True),
        ("After a while I get 72", "72", True),
        # Only the last box counts.
        (r"\boxed{5}, no: \boxed{6}", "6", True),
        (r"\boxed{6}, no: \boxed{5}", "6", False),
    ],
)
def test_formulas_are_equal_in_whatever_form(text, reference, is_right):
    grade = math_verify(text, reference)
    assert grade.is_right is is_right
    assert grade.answer is not None


def test_equal_formulas_vote_together_however_they_are_written():
    written = [r"\frac{1}{2}"] * 2 + [r"\dfrac{1}{2}"] * 2 + [r"\frac{1}{3}", "1/3", r"\frac13"]
    grades = [math_verify(rf"\boxed{{{one}}}", r"\frac{1}{2}") for one in written]
    # Four votes for a half, two of them to the letter, and three for a third.
    assert Counter(grade.answer for grade in grades) == {"1/2": 4, "1/3": 3}
    assert majority(grades).is_right


@pytest.mark.parametrize("text", ["", "I do not know", r"\boxed{", "?!"])
def test_what_holds_no_formula_is_no_answer(text):
    assert math_verify(text, "5") == UNANSWERED


def test_a_parser_that_fails_gives_no_answer(monkeypatch):
    import math_verify as package

    def fail(*args, **kwargs):
        raise RecursionError("too deep")

    monkeypatch.setattr(package, "parse", fail)
    assert math_verify(r"\boxed{1+1}", "2") == UNANSWERED
    # To the letter, it needs none.
    assert math_verify(r"\boxed{1+1}", "1+1") == maths.Grade("1+1", is_right=True)


def test_a_comparison_that_takes_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr(maths, "_SECONDS", 1)
    grade = math_verify(r"\boxed{9^{9^{9}}}", "5")
    assert grade.answer is not None
    assert not grade.is_right


def test_formulas_are_graded_outside_the_main_thread_too():
    found = []
    thread = threading.Thread(target=lambda: found.append(math_verify(r"\boxed{\frac12}", "0.5")))
    thread.start()
    thread.join()
    assert found[0].is_right
