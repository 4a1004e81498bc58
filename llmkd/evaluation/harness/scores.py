"""From what lm-eval found to llmkd's estimates: its own numbers, with bootstrap intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

from llmkd.evaluation.measured import Estimate
from llmkd.evaluation.statistics import Bootstrap, bootstrap, bootstrap_mean, one_by_one

Result = Mapping[str, Any]
Aggregation = Callable[[Sequence[Any]], float]

NO_FILTER = "none"
SLOW = frozenset(["bleu", "chrf", "chrf++", "ter"])
"""Metrics that take so long that lm-eval too resamples them 100 times only."""
NUM_SLOW = 100


def estimates_of(task: ConfigurableTask, found: Result, *, seed: int) -> list[Estimate]:
    """Every metric of a task, in lm-eval's order and to lm-eval's last digit.

    Args:
        task: As it was measured.
        found: What `lm_eval.evaluator.evaluate` returned.
        seed: Decides the bootstrap's resamples.
    """
    results, samples = found["results"][task.task_name], found["samples"][task.task_name]
    aggregations = task.aggregation()
    estimates = []
    for key, value in results.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        scores = [
            sample[metric]
            for sample in samples
            if sample["filter"] == chosen and metric in sample["metrics"]
        ]
        aggregation = aggregations.get(metric, mean)
        resampled = _bootstrap(metric, scores, aggregation, seed)
        assert math.isclose(resampled.value, value, rel_tol=1e-12, abs_tol=1e-12) or value != value
        estimates.append(
            Estimate(
                metric_name(metric, chosen), replace(resampled, value=float(value)), len(scores)
            )
        )
    return estimates


def metric_name(metric: str, chosen: str) -> str:
    """What results call a metric: `acc`, or `exact_match:strict-match` where a filter chose."""
    return metric if chosen == NO_FILTER else f"{metric}:{chosen}"


def _bootstrap(
    metric: str, scores: Sequence[Any], aggregation: Aggregation, seed: int
) -> Bootstrap:
    if aggregation is mean:
        return bootstrap_mean(np.array(scores, float), seed=seed)
    statistic = one_by_one(lambda chosen: aggregation([scores[i] for i in chosen]))
    if metric not in SLOW:
        return bootstrap(statistic, len(scores), seed=seed)

    def first_ones(samples: np.ndarray) -> np.ndarray:
        rest = np.full(max(0, len(samples) - NUM_SLOW), math.nan)
        return np.concatenate([statistic(samples[:NUM_SLOW]), rest])

    return bootstrap(first_ones, len(scores), seed=seed)
