"""Which split an example of a procedural task belongs to: by a hash, whatever the seed."""

from typing import Any

import numpy as np

# Tenths of all examples, as the range of `mixed(example) % 10`.
TENTHS = {"train": (0, 4), "unlabelled": (4, 8), "validation": (8, 9), "test": (9, 10)}


def is_in_split(numbers: Any, split: str) -> Any:
    """Whether the examples with these numbers, an array or one, are in a split."""
    start, end = TENTHS[split]
    tenths = mixed(numbers) % np.uint64(10)
    return (tenths >= start) & (tenths < end)


def mixed(values: Any) -> Any:
    """SplitMix64: well-mixed 64 bits, equal on every machine and in every version.

    Args:
        values: An array of uint64, or one.
    """
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
