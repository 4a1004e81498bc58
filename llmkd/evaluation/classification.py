"""A classifier on labelled rows: its favourite labels, its probabilities, and what they are worth."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import assert_never

import numpy as np

from llmkd.data.classification import labelled_rows
from llmkd.data.labels import chosen_labels, given_labels, label_ids, names_in_config
from llmkd.data.sources import Row
from llmkd.errors import InputError
from llmkd.evaluation.calibration import (
    area_under_risk_coverage,
    brier_scores,
    expected_calibration_error,
)
from llmkd.evaluation.classifier_logits import encoded_for, logits_of_rows, shown
from llmkd.evaluation.details import Sample, TaskDetails
from llmkd.evaluation.label_metrics import Found, LabelCounts, count_labels
from llmkd.evaluation.measured import Estimate, Measured, Setting
from llmkd.evaluation.regression import measure_regression
from llmkd.evaluation.reliability import Reliability
from llmkd.evaluation.scored_labels import ScoredLabels
from llmkd.evaluation.statistics import Bootstrap, bootstrap, bootstrap_mean
from llmkd.evaluation.subject import Subject
from llmkd.recipe.classification import ClassificationTask, ClassifierMetric
from llmkd.recipe.data import is_regression

NUM_SAMPLES = 8
"""Texts that are kept to be read."""


def measure_classification(
    subject: Subject, task: ClassificationTask, setting: Setting
) -> Measured:
    """Asks a classifier for every row's label; of a regression for its number.

    Raises:
        InputError: Rows that cannot be used, or whose labels the model does not have.
    """
    if is_regression(task.data):
        return measure_regression(subject, task, setting)
    rows = labelled_rows(task.data, seed=setting.seed)
    given = given_labels(task.data)
    own = names_in_config(subject.model.config.to_dict())
    names = chosen_labels(given, own, None, {row["label"] for row in rows})
    ids = label_ids(names, is_given=given is not None)
    positive = _positive(task, ids)
    encoded = encoded_for(subject, rows, task.data, f"tasks.{task.name}.data")
    logits = logits_of_rows(subject, encoded, task, setting)
    scored = ScoredLabels(np.array([ids[row["label"]] for row in rows]), logits)
    estimates = [
        Estimate(metric, estimated(metric, scored, positive, seed=setting.seed), len(rows))
        for metric in task.metrics
    ]
    reliability = Reliability()
    reliability.add(scored.confidences, scored.is_right)
    samples = _samples(rows, names, scored)
    return Measured(estimates, TaskDetails(samples=samples, bins=reliability.bins()))


def estimated(
    metric: ClassifierMetric, scored: ScoredLabels, positive: int | None = None, *, seed: int
) -> Bootstrap:
    """A metric over the examples.

    Args:
        metric: Which.
        scored: What the classifier said.
        positive: The label that `f1` is of.
        seed: Decides the resamples.
    """
    num_examples = len(scored.label_ids)

    def of_counts(metric: Callable[[LabelCounts], Found]) -> Bootstrap:
        return bootstrap(
            lambda samples: metric(count_labels(scored, samples)), num_examples, seed=seed
        )

    match metric:
        case "accuracy":
            return bootstrap_mean(scored.is_right, seed=seed)
        case "macro_f1":
            return of_counts(lambda counts: counts.macro_f1)
        case "micro_f1":
            return of_counts(lambda counts: counts.micro_f1)
        case "f1":
            assert positive is not None, "refused by the recipe"
            return of_counts(lambda counts: counts.f1[:, positive])
        case "mcc":
            return of_counts(lambda counts: counts.mcc)
        case "ece":
            return bootstrap(partial(expected_calibration_error, scored), num_examples, seed=seed)
        case "brier":
            return bootstrap_mean(brier_scores(scored), seed=seed)
        case "aurc":
            return bootstrap(partial(area_under_risk_coverage, scored), num_examples, seed=seed)
        case "pearson" | "spearman" | "mse":
            raise AssertionError(f"{metric} is of numbers: refused by the recipe")
        case unknown:
            assert_never(unknown)


def _positive(task: ClassificationTask, ids: dict[str, int]) -> int | None:
    if task.positive_label is None:
        return None
    if task.positive_label not in ids:
        raise InputError(
            f"tasks.{task.name}.positive_label: the model has no label {task.positive_label!r}; "
            f"write one of {', '.join(ids)}"
        )
    return ids[task.positive_label]


def _samples(rows: Sequence[Row], names: list[str], scored: ScoredLabels) -> list[Sample]:
    return [
        Sample(
            example=i,
            prompt=shown(row),
            reference=names[scored.label_ids[i]],
            text=names[scored.favourites[i]],
            num_tokens=None,
            is_right=bool(scored.is_right[i]),
        )
        for i, row in enumerate(rows[:NUM_SAMPLES])
    ]
