"""Measures models side by side: every task of a suite, each model loaded once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.evaluation.accuracy import bootstrap_macro_f1, score_labels
from llmkd.evaluation.continuations import Beginning, beginnings, continued
from llmkd.evaluation.details import Details, TaskDetails
from llmkd.evaluation.exact_match import score_answers
from llmkd.evaluation.perplexity import score_text
from llmkd.evaluation.results import Record
from llmkd.evaluation.statistics import Interval, bootstrap_mean, bootstrap_ratio
from llmkd.models.classifiers import load_classifier
from llmkd.models.load import load_model
from llmkd.progress import Progress
from llmkd.recipe.evaluation import (
    AccuracyTask,
    EvaluationTask,
    ExactMatchTask,
    PerplexityTask,
    Suite,
    is_for_classifiers,
)
from llmkd.recipe.models import PretrainedModel
from llmkd.teacher_data.transformers_engine import load_for_inference

PROGRESS_STEPS = 100
"""Steps of progress per model and task."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and what lies behind it."""

    records: list[Record]
    """In the order of models, then tasks."""
    details: Details


@dataclass(frozen=True)
class Measured:
    """One model on one task."""

    metrics: list[tuple[str, Interval, int]]
    """Metric, interval and number of examples."""
    details: TaskDetails


def evaluate(
    models: Sequence[tuple[str, str]],
    suite: Suite,
    *,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> Evaluation:
    """Measures every model on every task.

    Args:
        models: What results call the model, and its folder or hub name.
        suite: The tasks.
        batch_size: Examples scored or generated together.
        seed: Decides which examples a procedural task makes, the same for all models, and the
            bootstrap's resamples.
        progress: Called with (done, total); a model's task is a hundred.

    Raises:
        InputError: A model or data set that cannot be used.
    """
    records, details = list[Record](), Details()
    # The first model's tokenizer cuts the texts that all continue.
    texts: dict[int, list[Beginning]] = {}
    total = len(models) * len(suite.tasks) * PROGRESS_STEPS
    num_finished = 0
    for label, path in models:
        load = load_classifier if is_for_classifiers(suite) else load_model
        model, tokenizer = load_for_inference(
            PretrainedModel(model_name_or_path=path, dtype="auto"), load
        )
        for number, task in enumerate(suite.tasks):
            if isinstance(task, PerplexityTask) and number not in texts:
                texts[number] = beginnings(task, tokenizer, seed=seed)
            begun = num_finished * PROGRESS_STEPS

            def moved(done: int, of: int, begun: int = begun) -> None:
                progress(begun + PROGRESS_STEPS * done // of, total)

            measured = _measure(
                model, tokenizer, task, texts.get(number, []), batch_size, seed, moved
            )
            details.add(measured.details, task=task.name, model=label)
            records += [
                Record(
                    model=label,
                    suite=suite.name,
                    task=task.name,
                    metric=metric,
                    value=interval.value,
                    ci_low=interval.low,
                    ci_high=interval.high,
                    num_examples=num_examples,
                    seed=seed,
                )
                for metric, interval, num_examples in measured.metrics
            ]
            num_finished += 1
    return Evaluation(records, details)


def _measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: EvaluationTask,
    texts: list[Beginning],
    batch_size: int,
    seed: int,
    progress: Progress,
) -> Measured:
    match task:
        case ExactMatchTask():
            answers = score_answers(
                model, tokenizer, task, batch_size=batch_size, seed=seed, progress=progress
            )
            share = bootstrap_mean(answers.scores, seed=seed)
            return Measured(
                [("exact_match", share, len(answers.scores))],
                TaskDetails(samples=answers.samples, lengths=answers.lengths),
            )
        case AccuracyTask():
            labels = score_labels(
                model, tokenizer, task, batch_size=batch_size, seed=seed, progress=progress
            )
            num_examples = len(labels.is_right)
            return Measured(
                [
                    ("accuracy", bootstrap_mean(labels.is_right, seed=seed), num_examples),
                    ("macro_f1", bootstrap_macro_f1(labels, seed=seed), num_examples),
                ],
                TaskDetails(samples=labels.samples, bins=labels.bins),
            )
        case PerplexityTask():
            found = score_text(
                model, tokenizer, task, batch_size=batch_size, seed=seed, progress=progress
            )
            loss = bootstrap_ratio(found.losses, found.counts, seed=seed)
            bounds = np.exp([loss.value, loss.low, loss.high]).tolist()
            num_examples = len(found.losses)
            samples = continued(model, tokenizer, texts, batch_size=batch_size, seed=seed)
            return Measured(
                [
                    ("loss_per_token", loss, num_examples),
                    ("perplexity", Interval(*bounds), num_examples),
                ],
                TaskDetails(samples=samples, bins=found.bins),
            )
