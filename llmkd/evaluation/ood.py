"""Is a classifier less sure of rows that are unlike its training data?"""

from collections.abc import Callable, Sequence
from typing import assert_never

import numpy as np
from jaxtyping import Bool, Float

from llmkd.data.classification import labelled_rows
from llmkd.data.labels import names_in_config
from llmkd.data.sources import Row, iter_rows
from llmkd.errors import DataError
from llmkd.evaluation.classifier_logits import encoded_for, logits_of_rows, shown
from llmkd.evaluation.details import Sample, TaskDetails
from llmkd.evaluation.detection import Detection, detection
from llmkd.evaluation.measured import Estimate, Measured, Setting
from llmkd.evaluation.statistics import Bootstrap, bootstrap
from llmkd.evaluation.subject import Subject
from llmkd.progress import say
from llmkd.recipe.ood import Confidence, OODTask

NUM_SAMPLES = 4
"""Texts of each kind that are kept to be read."""
METRICS: dict[str, Callable[[Detection], Float[np.ndarray, " samples"]]] = {
    "auroc": lambda found: found.auroc,
    "aupr_in": lambda found: found.aupr_in,
    "aupr_out": lambda found: found.aupr_out,
    "fpr_at_95_recall": lambda found: found.fpr_at_95_recall,
}


def measure_ood(subject: Subject, task: OODTask, setting: Setting) -> Measured:
    """Asks a classifier how sure it is of rows in and out of distribution.

    Raises:
        InputError: Rows that cannot be used, or all of one kind.
    """
    inside, outside = rows_of(task, seed=setting.seed)
    _warn_of_known(subject, task)
    place = f"tasks.{task.name}"
    encoded = encoded_for(subject, inside, task.data, f"{place}.data")
    encoded += (
        encoded_for(subject, outside, task.data, f"{place}.data")
        if task.out_data is None
        else encoded_for(subject, outside, task.out_data, f"{place}.out_data")
    )
    logits = logits_of_rows(subject, encoded, task, setting)
    is_in = np.arange(len(encoded)) < len(inside)
    found = confidences(logits, task.confidence)
    estimates = [
        Estimate(metric, _estimated(of, found, is_in, seed=setting.seed), len(is_in))
        for metric, of in METRICS.items()
    ]
    names = names_in_config(subject.model.config.to_dict())
    favourites = [names[i] for i in logits.argmax(1)]
    return Measured(
        estimates, TaskDetails(samples=_samples([*inside, *outside], is_in, favourites, found))
    )


def confidences(
    logits: Float[np.ndarray, "rows labels"], kind: Confidence
) -> Float[np.ndarray, " rows"]:
    """How sure a classifier is that a row is like its training data.

    Args:
        logits: The classifier's.
        kind: `max_probability` of Hendrycks and Gimpel; `max_logit`; `energy`, minus the free energy
            of Liu et al. at temperature 1.

    References:
        Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution
        Examples in Neural Networks", https://arxiv.org/abs/1610.02136.
        Hendrycks et al. 2022, "Scaling Out-of-Distribution Detection for Real-World Settings",
        https://arxiv.org/abs/1911.11132.
        Liu et al. 2020, "Energy-based Out-of-distribution Detection",
        https://arxiv.org/abs/2010.03759, equation 4.
    """
    highest = logits.max(1)
    excess = np.log(np.exp(logits - highest[:, None]).sum(1))
    match kind:
        case "max_probability":
            return np.exp(-excess)
        case "max_logit":
            return highest
        case "energy":
            return highest + excess
        case unknown:
            assert_never(unknown)


def rows_of(task: OODTask, *, seed: int) -> tuple[list[Row], list[Row]]:
    """The rows in distribution, and those out of it.

    Raises:
        InputError: Rows that cannot be used, or all of one kind.
    """
    if task.out_data is not None:
        inside = list(iter_rows(task.data, seed=seed, need="texts"))
        return inside, list(iter_rows(task.out_data, seed=seed, need="texts"))
    assert task.out_labels is not None, "refused by the recipe"
    rows = labelled_rows(task.data, seed=seed)
    outside = [row for row in rows if row["label"] in task.out_labels]
    inside = [row for row in rows if row["label"] not in task.out_labels]
    if not outside or not inside:
        which = "all" if outside else "none"
        raise DataError(
            "dataset_name",
            f"{which} of the {len(rows)} rows have one of the labels {', '.join(task.out_labels)}, "
            "which mark what is out of distribution; write other out_labels, or name other rows",
        )
    return inside, outside


def _estimated(
    metric: Callable[[Detection], Float[np.ndarray, " samples"]],
    found: Float[np.ndarray, " rows"],
    is_in: Bool[np.ndarray, " rows"],
    *,
    seed: int,
) -> Bootstrap:
    return bootstrap(
        lambda samples: metric(detection(found, is_in, samples)), len(is_in), seed=seed
    )


def _warn_of_known(subject: Subject, task: OODTask) -> None:
    own = names_in_config(subject.model.config.to_dict())
    if known := sorted(set(own) & set(task.out_labels or [])):
        say(
            f"{task.name}: {subject.label} has the label {known[0]} itself, so such rows are not new "
            "to it; train a classifier without them"
        )


def _samples(
    rows: Sequence[Row],
    is_in: Bool[np.ndarray, " rows"],
    favourites: Sequence[str],
    found: Float[np.ndarray, " rows"],
) -> list[Sample]:
    chosen = [*np.flatnonzero(is_in)[:NUM_SAMPLES], *np.flatnonzero(~is_in)[:NUM_SAMPLES]]
    return [
        Sample(
            example=int(i),
            prompt=shown(rows[i]),
            reference="in distribution" if is_in[i] else "out of distribution",
            text=f"{favourites[i]} ({found[i]:.3f})",
            num_tokens=None,
            is_right=None,
        )
        for i in chosen
    ]
