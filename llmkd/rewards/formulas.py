"""Formulas graded in a process of their own; see `llmkd.rewards.worker`."""

from collections.abc import Sequence

import math_verify as _package  # noqa: F401 - takes a second or two, which is no rollout's.

from llmkd.rewards.maths import math_verify


def are_right(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where a text's formula equals the reference's, else 0."""
    return [float(math_verify(*pair).is_right) for pair in zip(texts, references, strict=True)]
