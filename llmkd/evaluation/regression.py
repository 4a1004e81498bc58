"""A model that gives a number, on rows whose labels are numbers."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from llmkd.data.classification import labelled_rows
from llmkd.data.sources import Row
from llmkd.errors import DataError, LlmkdError
from llmkd.evaluation.classifier_logits import encoded_for, logits_of_rows, shown
from llmkd.evaluation.correlations import pearson, spearman
from llmkd.evaluation.details import Sample, TaskDetails
from llmkd.evaluation.measured import Estimate, Measured, Setting
from llmkd.evaluation.statistics import Bootstrap, bootstrap, bootstrap_mean
from llmkd.evaluation.subject import Subject
from llmkd.recipe.classification import ClassificationTask, ClassifierMetric

NUM_SAMPLES = 8
"""Texts that are kept to be read."""

Numbers = Float[np.ndarray, " rows"]


def measure_regression(subject: Subject, task: ClassificationTask, setting: Setting) -> Measured:
    """Asks a model for every row's number.

    Raises:
        InputError: Rows or a model that cannot be used, or labels that are all equal.
        LlmkdError: The model gives all rows one number.
    """
    rows = labelled_rows(task.data, seed=setting.seed)
    place = f"tasks.{task.name}"
    encoded = encoded_for(subject, rows, task.data, f"{place}.data")
    found = logits_of_rows(subject, encoded, task, setting)[:, 0]
    wanted = np.array([row["label"] for row in rows])
    if set(task.metrics) != {"mse"}:
        _refuse_constant(found, wanted, place)
    estimates = [
        Estimate(metric, estimated(metric, found, wanted, seed=setting.seed), len(rows))
        for metric in task.metrics
    ]
    return Measured(estimates, TaskDetails(samples=_samples(rows, found)))


def estimated(metric: ClassifierMetric, found: Numbers, wanted: Numbers, *, seed: int) -> Bootstrap:
    """A metric over the examples.

    Args:
        metric: Which, of those of numbers.
        found: What the model said.
        wanted: What is right.
        seed: Decides the resamples.
    """
    match metric:
        case "pearson":
            return bootstrap(partial(pearson, found, wanted), len(found), seed=seed)
        case "spearman":
            return bootstrap(partial(spearman, found, wanted), len(found), seed=seed)
        case "mse":
            return bootstrap_mean((found - wanted) ** 2, seed=seed)
        case other:
            raise AssertionError(f"{other} is of names: refused by the recipe")


def _refuse_constant(found: Numbers, wanted: Numbers, place: str) -> None:
    """Refuses numbers that are all equal: with them nothing is correlated."""
    if np.ptp(wanted) == 0:
        raise DataError(
            "dataset_name",
            f"{place}: the labels of all {len(wanted)} rows are {wanted[0]:g}, so that a correlation "
            "is undefined; name rows with different labels, or write metrics: [mse]",
        )
    if np.ptp(found) == 0:
        raise LlmkdError(
            f"{place}: the model gives all {len(found)} rows the number {found[0]:.4g}, so that its "
            "correlation with their labels is undefined; train it further, or write metrics: [mse]"
        )


def _samples(rows: Sequence[Row], found: Numbers) -> list[Sample]:
    return [
        Sample(
            example=i,
            prompt=shown(row),
            reference=f"{row['label']:g}",
            text=f"{found[i]:.3g}",
            num_tokens=None,
            is_right=None,
        )
        for i, row in enumerate(rows[:NUM_SAMPLES])
    ]
