import pytest

from llmkd import schedules


def test_linear_goes_straight_from_start_to_end_and_stays_there():
    weight = schedules.linear(5e-3, 1e-3, 80)
    assert [weight(step) for step in (0, 40, 80, 200)] == pytest.approx([5e-3, 3e-3, 1e-3, 1e-3])


def test_cosine_is_halfway_at_half_time_and_flat_at_both_ends():
    weight = schedules.cosine(1.0, 0.0, 100)
    assert [weight(step) for step in (0, 50, 100, 101)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert 1 - weight(1) < 1 / 100 / 10
    assert weight(99) < 1 / 100 / 10


def test_constant_does_not_move():
    weight = schedules.constant(0.3)
    assert {weight(step) for step in (0, 1, 10_000)} == {0.3}
