"""Measures models side by side: every task of a suite, each model loaded once."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.evaluation.exact_match import score_answers
from llmkd.evaluation.perplexity import score_text
from llmkd.evaluation.results import Record
from llmkd.evaluation.statistics import Interval, bootstrap_mean, bootstrap_ratio
from llmkd.progress import Progress
from llmkd.recipe.evaluation import EvaluationTask, ExactMatchTask, PerplexityTask, Suite
from llmkd.recipe.models import PretrainedModel
from llmkd.teacher_data.transformers_engine import load_for_inference

PROGRESS_STEPS = 100
"""Steps of progress per model and task."""


def evaluate(
    models: Sequence[tuple[str, str]],
    suite: Suite,
    *,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> list[Record]:
    """Measures every model on every task.

    Args:
        models: What results call the model, and its folder or hub name.
        suite: The tasks.
        batch_size: Examples scored or generated together.
        seed: Decides which examples a procedural task makes, the same for all models, and the
            bootstrap's resamples.
        progress: Called with (done, total); a model's task is a hundred.

    Returns:
        Records in the order of models, then tasks.

    Raises:
        InputError: A model or data set that cannot be used.
    """
    records: list[Record] = []
    total = len(models) * len(suite.tasks) * PROGRESS_STEPS
    num_finished = 0
    for label, path in models:
        model, tokenizer = load_for_inference(
            PretrainedModel(model_name_or_path=path, dtype="auto")
        )
        for task in suite.tasks:
            begun = num_finished * PROGRESS_STEPS

            def moved(done: int, of: int, begun: int = begun) -> None:
                progress(begun + PROGRESS_STEPS * done // of, total)

            measured = _measure(model, tokenizer, task, batch_size, seed, moved)
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
                for metric, interval, num_examples in measured
            ]
            num_finished += 1
    return records


def _measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: EvaluationTask,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> list[tuple[str, Interval, int]]:
    """Metric, interval and number of examples."""
    match task:
        case ExactMatchTask():
            scores = score_answers(
                model, tokenizer, task, batch_size=batch_size, seed=seed, progress=progress
            )
            return [("exact_match", bootstrap_mean(scores, seed=seed), len(scores))]
        case PerplexityTask():
            losses, counts = score_text(
                model, tokenizer, task, batch_size=batch_size, seed=seed, progress=progress
            )
            loss = bootstrap_ratio(losses, counts, seed=seed)
            bounds = np.exp([loss.value, loss.low, loss.high]).tolist()
            return [
                ("loss_per_token", loss, len(losses)),
                ("perplexity", Interval(*bounds), len(losses)),
            ]
