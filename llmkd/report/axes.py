"""Axes: which stretch of numbers a chart shows, linear or logarithmic, and where its ticks are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

DECADE_AND_A_HALF = 30.0
"""Positive numbers whose ends differ by more than this factor get a logarithmic axis."""
LARGEST = 1e100
"""Larger numbers, and positive ones as small, are as good as infinite or zero: no axis shows them."""
NARROWEST = 1e-9
"""Values that differ by a smaller share of themselves are drawn as equal."""


@dataclass(frozen=True)
class Axis:
    """From numbers to pixels.

    Args:
        low: The number at `start`.
        high: The number at `end`.
        start: Pixel.
        end: Pixel; smaller than `start` on an axis that points up.
        is_log: Equal factors are equally far apart.
        ticks: Numbers to write, inside the axis.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The pixel of a number."""
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)


def axis(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    may_be_log: bool = False,
    has_zero: bool = False,
    num_ticks: int = 5,
) -> Axis:
    """An axis with room for all finite values.

    Args:
        values: What is shown; numbers that are not finite are passed over.
        start: Pixel of the low end.
        end: Pixel of the high end.
        may_be_log: Logarithmic where the values are positive and span a decade and a half.
        has_zero: Begin at 0, for amounts whose size is the point.
        num_ticks: About so many.
    """
    finite = [value for value in values if abs(value) < LARGEST] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if may_be_log and spans_decades(finite):
        room = (high / low) ** 0.04
        low, high = low / room, high * room
        return Axis(low, high, start, end, True, log_ticks(low, high, num_ticks))
    if has_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    is_flat = high - low <= NARROWEST * max(abs(low), abs(high)) or high - low < 1 / LARGEST
    room = (0.1 * abs(high) if abs(high) > 1 / LARGEST else 1.0) if is_flat else 0.06 * (high - low)
    low = low if has_zero and low == 0 else low - room
    high += room
    return Axis(low, high, start, end, False, linear_ticks(low, high, num_ticks))


def spans_decades(values: Iterable[float]) -> bool:
    """Whether the numbers are positive and far apart, so that a linear axis would hide the small."""
    numbers = list(values)
    return min(numbers) > 1 / LARGEST and max(numbers) / min(numbers) > DECADE_AND_A_HALF


def linear_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten, about `count` of them.

    Example:
        >>> linear_ticks(0.0, 1.06, 5)
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    first, last = math.ceil(low / step), math.floor(high / step)
    # Rounded, for 3 * 0.1 is not 0.3; plus 0, for -0.0 is not to be written.
    digits = max(0, 1 - math.floor(math.log10(step)))
    return tuple(round(i * step, digits) + 0.0 for i in range(first, last + 1))


def log_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    """Powers of ten; with 3 times them where they are few, every nth where they are many.

    Example:
        >>> log_ticks(0.9, 1100.0, 5)
        (1.0, 10.0, 100.0, 1000.0)
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, round((last - first) / count))
    factors = (1, 3) if last - first <= 3 else (1,)
    found = (factor * 10.0**power for power in range(first, last + 1, every) for factor in factors)
    return tuple(value for value in found if low <= value <= high)
