import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.recipe.scalars import LARGEST_INT, read_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("3E5", 3e5),
        (".5", 0.5),
        ("-1.", -1.0),
        ("+.5e+1", 5.0),
        ("010", 10),
        ("-007", -7),
        ("+3", 3),
        ("0o17", 15),
        ("0xFf", 255),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("Null", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("0" * 5000, 0),
    ],
)
def test_core_rules_give(text, value):
    read = read_scalar(text)

    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "on",
        "off",
        "yes",
        "No",
        "y",
        "12:30",
        "2024-01-31",
        "1_000",
        "1e",
        "e5",
        ".",
        "-",
        "--1",
        "0b1",
        "0O7",
        "0x",
        "nan",
        "inf",
        "tRUE",
        "1.2.3",
    ],
)
def test_everything_else_is_text(text):
    assert read_scalar(text) == text


@pytest.mark.parametrize("text", ["1 2", "٣", "1\n", " 1", "stage:teacher"])
def test_what_is_a_number_only_to_python_is_text(text):
    assert read_scalar(text) == text


def test_nan_is_read():
    assert math.isnan(read_scalar(".nan"))


@pytest.mark.parametrize("text", ["9" * 30, "9" * 5000, "0x" + "f" * 100, "1e999", "-9e400"])
def test_numbers_that_do_not_fit_are_refused(text):
    with pytest.raises(ValueError, match="too large"):
        read_scalar(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_back_from_its_repr(number):
    assert read_scalar(repr(number)) == number


@given(st.integers(-LARGEST_INT, LARGEST_INT))
def test_every_integer_is_read_back(number):
    assert read_scalar(str(number)) == number


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        value = read_scalar(text)
    except ValueError:
        return
    assert value is None or isinstance(value, str | int | float)
