import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from llmkd.report.axes import axis, linear_ticks, log_ticks

numbers = st.floats(-1e99, 1e99, allow_nan=False)


def test_ticks_are_round_numbers_within_the_axis():
    assert linear_ticks(0.0, 1.06, 5) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert linear_ticks(-0.11, 0.32, 5) == (-0.1, 0.0, 0.1, 0.2, 0.3)
    assert linear_ticks(812.0, 1630.0, 5) == (1000.0, 1200.0, 1400.0, 1600.0)
    assert log_ticks(0.5, 1100.0, 5) == (1.0, 10.0, 100.0, 1000.0)
    assert log_ticks(0.02, 2.0, 5) == pytest.approx((0.03, 0.1, 0.3, 1.0))
    assert len(log_ticks(1e-12, 1e12, 5)) <= 7


def test_an_axis_is_logarithmic_where_positive_values_span_a_decade_and_a_half():
    assert axis([0.02, 2.7], 0, 100, may_be_log=True).is_log
    assert not axis([0.2, 2.7], 0, 100, may_be_log=True).is_log
    assert not axis([0.02, 2.7], 0, 100).is_log
    assert not axis([0.0, 2.7], 0, 100, may_be_log=True).is_log
    assert not axis([-1.0, 1000.0], 0, 100, may_be_log=True).is_log


def test_an_axis_of_amounts_begins_at_zero():
    assert axis([5.0, 10.0], 0, 100, has_zero=True)(0.0) == 0
    assert axis([-5.0, -1.0], 0, 100, has_zero=True).high >= 0


@pytest.mark.parametrize(
    "values", [[], [math.nan], [math.inf, math.nan], [3.0], [0.0], [-2.0, -2.0]]
)
def test_values_that_span_nothing_still_have_an_axis(values):
    found = axis(values, 0, 100, may_be_log=True)
    assert found.low < found.high
    assert found.ticks
    for value in filter(math.isfinite, values):
        assert 0 < found(value) < 100


@given(st.lists(numbers, min_size=1), st.booleans(), st.booleans())
def test_every_value_and_tick_is_within_the_axis_in_order(values, may_be_log, has_zero):
    found = axis(values, 0.0, 100.0, may_be_log=may_be_log, has_zero=has_zero)
    assert all(-1e-6 <= found(value) <= 100 + 1e-6 for value in [*values, *found.ticks])
    assert list(found.ticks) == sorted(found.ticks)
    assert len(found.ticks) <= 12
    assert found(found.low) == pytest.approx(0)
    assert found(found.high) == pytest.approx(100)


def test_a_logarithmic_axis_puts_equal_factors_equally_far():
    found = axis([1.0, 10_000.0], 100, 0, may_be_log=True)
    assert found(1.0) - found(100.0) == pytest.approx(found(100.0) - found(10_000.0))
    assert found(1.0) > found(10_000.0)


def test_numbers_beyond_all_measure_do_not_break_an_axis():
    for values in (
        [1e-300, 1e299],
        [5e-324, 0.0],
        [1.0, 1.0 + 2e-16],
        [1e308, -1e308],
        [1e-99, 1e99],
    ):
        found = axis(values, 0, 100, may_be_log=True)
        assert found.low < found.high
        assert 0 < len(found.ticks) < 12
