"""Weights as functions of the optimizer step."""

import math
from collections.abc import Callable

WeightSchedule = Callable[[int], float]
"""From the optimizer step, 0 before the first update, to a term's weight."""


def constant(value: float) -> WeightSchedule:
    """Always `value`."""
    return lambda step: value


def linear(start: float, end: float, num_steps: int) -> WeightSchedule:
    """From `start` at step 0 to `end` at `num_steps` in a straight line, then `end`."""
    return lambda step: start + (end - start) * min(step / num_steps, 1.0)


def cosine(start: float, end: float, num_steps: int) -> WeightSchedule:
    """From `start` at step 0 to `end` at `num_steps` along half a cosine, then `end`."""

    def weight(step: int) -> float:
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(step / num_steps, 1.0)))

    return weight
