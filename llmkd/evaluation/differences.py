"""Models on the same examples, side by side: is one better, or is it noise?"""

import math
from dataclasses import dataclass
from typing import Literal

from llmkd.evaluation.measured import Estimate
from llmkd.evaluation.metric_names import is_lower_better, is_quality

Verdict = Literal["better", "worse", "more", "less", "noise", "not known"]


@dataclass(frozen=True)
class Difference:
    """One model minus the baseline on one metric, paired by example.

    The fields stand in `details.json`.
    """

    suite: str
    task: str
    metric: str
    model: str
    baseline: str
    value: float
    ci_low: float
    """Lower end of the 95 % paired bootstrap interval over examples."""
    ci_high: float
    verdict: Verdict
    """`noise` where the interval holds 0: other examples could turn it round. `more` and `less` of
    what is neither good nor bad; `not known` where nothing could be resampled, or measuring again
    would give something else (time, memory)."""


def are_comparable(one: Estimate, other: Estimate) -> bool:
    """Whether both are of the same examples, counted in the same unit."""
    return one.num_examples == other.num_examples and one.unit == other.unit


def difference(
    found: Estimate, baseline: Estimate, *, suite: str, task: str, models: tuple[str, str]
) -> Difference:
    """One model minus the baseline on the same examples.

    Args:
        found: Of the model.
        baseline: Of the baseline, with the same metric, examples and seed.
        suite: Of the task.
        task: Of the metric.
        models: What results call the model and the baseline.
    """
    assert found.metric == baseline.metric
    assert found.num_examples == baseline.num_examples, "not the same examples"
    paired = found.found.minus(baseline.found)
    return Difference(
        suite,
        task,
        found.metric,
        *models,
        paired.value,
        paired.low,
        paired.high,
        verdict_of(found.metric, paired.low, paired.high) if found.is_repeatable else "not known",
    )


def verdict_of(metric: str, low: float, high: float) -> Verdict:
    """What an interval of a difference says in a plain word."""
    if math.isnan(low) or math.isnan(high):
        return "not known"
    if low <= 0 <= high:
        return "noise"
    is_more = low > 0
    if not is_quality(metric):
        return "more" if is_more else "less"
    return "better" if is_more != is_lower_better(metric) else "worse"
