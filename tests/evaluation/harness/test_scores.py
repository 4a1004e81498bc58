import math

import numpy as np
import pytest
from lm_eval.api import registry

from llmkd.evaluation.harness.scores import _bootstrap, metric_name
from llmkd.evaluation.metric_names import is_lower_better, is_share


def test_directions_are_those_of_lm_evals_own_metrics():
    directions = registry.higher_is_better_registry
    assert len(directions) > 10
    assert [name for name, higher in directions.items() if higher == is_lower_better(name)] == []


def test_a_metric_of_which_less_is_better_says_so():
    assert metric_name("acc", "none") == "acc"
    assert metric_name("perplexity", "none", is_higher_better=False) == "perplexity"
    assert metric_name("bias", "none", is_higher_better=False) == "bias:lower"
    assert is_lower_better("bias:lower")
    strict = metric_name("exact_match", "strict-match")
    assert strict == "exact_match:strict-match"
    assert is_share(strict)
    assert not is_lower_better(strict)


@pytest.mark.parametrize(("metric", "num_resamples"), [("ter", 100), ("mine", 2000)])
def test_slow_metrics_are_resampled_as_often_as_by_lm_eval(metric, num_resamples):
    found = _bootstrap(metric, [1.0, 2.0, 6.0], lambda scores: max(scores), 0)
    assert found.value == 6
    assert int((~np.isnan(found.resampled)).sum()) == num_resamples
    assert not math.isnan(found.interval.low)
