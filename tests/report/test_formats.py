import math

import pytest

from llmkd.report.formats import (
    bounds,
    difference,
    duration,
    measured,
    moment,
    number,
    shortened,
    tick,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (12345.678, "12,346"), (3.14159, "3.142"), (0.000123, "0.000123"), (3e-5, "3e-5"),
        (1234567.0, "1,234,567"), (math.nan, "not finite"), (None, "not finite"), (-2.5, "-2.5"),
    ],
)  # fmt: skip
def test_numbers_have_four_digits_at_most(value, text):
    assert number(value) == text


def test_shares_are_in_percent_and_signs_are_shown_where_asked():
    assert measured(0.982, "exact_match") == "98.2 %"
    assert difference(0.1, "exact_match") == "+10.0 points"
    assert difference(-2.4, "perplexity") == "-2.4"
    assert measured(4.5467, "perplexity") == "4.547"
    assert bounds(-0.1, 0.2, "exact_match", sign="+") == "[-10.0, +20.0]"
    assert bounds(1.5, math.nan, "perplexity") == "[1.5, not finite]"


def test_ticks_are_short():
    assert [tick(x) for x in (0, 0.5, 20_000, 1.5e6, 1e-5, 1e15)] == [
        "0", "0.5", "20k", "1.5M", "1e-5", "1e15",
    ]  # fmt: skip


def test_durations_are_read_at_a_glance():
    assert [duration(x) for x in (0.25, 42.4, 185, 7800, None, math.nan)] == [
        "0.2 s", "42 s", "3 min 5 s", "2 h 10 min", "-", "-",
    ]  # fmt: skip


def test_a_moment_is_told_to_the_minute_and_other_text_as_it_is():
    assert moment("2026-11-21T09:16:02+00:00") == "2026-11-21 09:16+00:00"
    assert moment("yesterday") == "yesterday"


def test_a_long_name_keeps_both_ends():
    assert shortened("org/a-very-long-model-name-7B", 16) == "org/a…el-name-7B"
    assert len(shortened("x" * 99, 16)) == 16
    assert shortened("short", 16) == "short"
