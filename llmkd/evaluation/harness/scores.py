"""From what lm-eval found to llmkd's estimates: its own numbers, with bootstrap intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

from llmkd.evaluation.harness.answers import is_right_choice
from llmkd.evaluation.harness.rows import at
from llmkd.evaluation.measured import Estimate
from llmkd.evaluation.metric_names import LOWER, is_lower_better
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
    logged = found["samples"][task.task_name]
    estimates = []
    for key, value in found["results"][task.task_name].items():
        metric, comma, chosen = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            scores = [
                sample[metric]
                for sample in logged
                if sample["filter"] == chosen and metric in sample["metrics"]
            ]
            resampled = _bootstrap(metric, scores, task.aggregation().get(metric, mean), seed)
            name = metric_name(
                metric, chosen, is_higher_better=task.higher_is_better().get(metric, True)
            )
            estimates.append(Estimate(name, _with_value(resampled, float(value)), len(scores)))
    return estimates


def em_of_questions(
    task: ConfigurableTask, logged: Sequence[Result], columns: Sequence[str], *, seed: int
) -> Estimate:
    """Exact match: the share of questions of whose rows each is answered right.

    Args:
        task: As it was measured.
        logged: The samples that lm-eval logged.
        columns: Which, together, tell the questions apart.
        seed: Decides the bootstrap's resamples, which are of questions.

    References:
        Khashabi et al. 2018, "Looking Beyond the Surface: A Challenge Set for Reading Comprehension
        over Multiple Sentences", https://aclanthology.org/N18-1023: MultiRC's EM.
    """
    questions: dict[str, bool] = {}
    for sample in logged:
        key = repr([at(sample["doc"], column) for column in columns])
        questions[key] = questions.get(key, True) and is_right_choice(task, sample)
    found = bootstrap_mean(list(questions.values()), seed=seed)
    return Estimate("em", found, len(questions))


def _with_value(found: Bootstrap, value: float) -> Bootstrap:
    """With lm-eval's own number, from which ours may differ by the order of a sum."""
    is_same = math.isclose(found.value, value, rel_tol=1e-12, abs_tol=1e-12)
    assert is_same or (math.isnan(found.value) and math.isnan(value)), (found.value, value)
    return replace(found, value=value)


def metric_name(metric: str, chosen: str, *, is_higher_better: bool = True) -> str:
    """What results call a metric: `acc`, or `exact_match:strict-match` where a filter chose.

    Where less is better and the name does not say so to llmkd, it ends in `:lower`.
    """
    name = metric if chosen == NO_FILTER else f"{metric}:{chosen}"
    return name if is_higher_better or is_lower_better(name) else name + LOWER


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
