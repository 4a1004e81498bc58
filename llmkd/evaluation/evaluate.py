"""Measures models side by side: every task of a suite, each model loaded once."""

import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from llmkd.errors import InputError, LlmkdError
from llmkd.evaluation.details import Details
from llmkd.evaluation.differences import are_comparable, difference
from llmkd.evaluation.measure import measure
from llmkd.evaluation.measured import Estimate, Measured, Setting
from llmkd.evaluation.results import Record
from llmkd.evaluation.subject import Subject, subject_at
from llmkd.faults import explanation, ran_out_of_memory
from llmkd.models.classifiers import load_classifier
from llmkd.models.load import load_model
from llmkd.progress import Progress, say
from llmkd.recipe.evaluation import (
    EvaluationTask,
    Suite,
    compares_with_teacher,
    is_for_classifiers,
)
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Engine

MOST_AT_ONCE = 128
"""Examples at once to begin with where the batch size is left to us."""
PROGRESS_STEPS = 100
"""Steps of progress per model and task."""


@dataclass(frozen=True)
class Failure:
    """A task that one model could not be measured on."""

    model: str
    task: str
    message: str
    is_bad_input: bool = False
    """Whether the user can mend it before anything is measured."""
    traceback: str = ""
    """Of what llmkd did not expect."""

    def __str__(self) -> str:
        return f"{self.task} of {self.model}: {self.message}"


@dataclass
class Evaluation:
    """What was measured, what lies behind it, and what could not be."""

    records: list[Record] = field(default_factory=list)
    """In the order of models, then tasks."""
    details: Details = field(default_factory=Details)
    failures: list[Failure] = field(default_factory=list)


def evaluate(
    models: Sequence[tuple[str, str | PretrainedModel]],
    suite: Suite,
    *,
    batch_size: int | Literal["auto"],
    seed: int,
    progress: Progress,
    folder: Path | None = None,
    engine: Engine | None = None,
    teacher: tuple[str, PretrainedModel] | None = None,
) -> Evaluation:
    """Measures every model on every task. A task that fails is told, and the others go on.

    Args:
        models: What results call the model, and where it is: a folder or hub name alone means its
            own type. The first is the baseline of the differences.
        suite: The tasks.
        batch_size: Most examples scored or generated together; `auto` halves it, from 128, whenever
            memory runs out.
        seed: Decides which examples a procedural task makes, the same for all models, and the
            bootstrap's resamples.
        progress: Called with (done, total); a model's task is a hundred.
        folder: Where answers are kept as they come, so that a killed evaluation goes on.
        engine: What writes completions; None takes transformers.
        teacher: The model that others are compared with in tasks that ask for one.

    Raises:
        InputError: A model without a tokenizer that loads, or nothing could be measured.
    """
    found, estimates = Evaluation(), dict[tuple[str, str], list[Estimate]]()
    load = load_classifier if is_for_classifiers(suite) else load_model
    first, *_ = subjects = [subject_at(label, path, load) for label, path in models]
    for subject in subjects:
        _ = subject.tokenizer
    beside = None
    if teacher is not None and compares_with_teacher(suite):
        beside = _teacher_among(subjects, Subject(*teacher, load=load))
    total = len(models) * len(suite.tasks) * PROGRESS_STEPS
    num_finished = 0
    for position, subject in enumerate(subjects):
        label = subject.label
        with closing(subject):
            for number, task in enumerate(suite.tasks):
                begun = num_finished * PROGRESS_STEPS

                def moved(done: int, of: int, begun: int = begun) -> None:
                    progress(begun + PROGRESS_STEPS * done // of, total)

                place = None if folder is None else folder / f"model-{position}" / f"task-{number}"
                is_auto = batch_size == "auto"
                most = MOST_AT_ONCE if batch_size == "auto" else batch_size
                setting = Setting(first, most, seed, moved, place, engine, beside)
                measured = _tried(subject, task, setting, found.failures, is_auto=is_auto)
                if measured is not None:
                    estimates[label, task.name] = list(measured.estimates)
                    found.details.add(measured.details, task=task.name, model=label)
                    found.records += _records(measured, subject, task, suite, seed)
                    _compare(found, estimates, (first.label, label), suite, task)
                num_finished += 1
        if (num_parameters := subject.num_parameters) is not None:
            found.details.parameters[label] = num_parameters
        if subject is not beside:
            subject.release()
    if not found.records and all(failure.is_bad_input for failure in found.failures):
        raise InputError([str(failure) for failure in found.failures])
    return found


def _teacher_among(subjects: Sequence[Subject], teacher: Subject) -> Subject:
    """The teacher; where it is measured too, the same subject, so that it is loaded once."""
    return next((one for one in subjects if one.is_as_loaded(teacher.source)), teacher)


def _tried(
    subject: Subject,
    task: EvaluationTask,
    setting: Setting,
    failures: list[Failure],
    *,
    is_auto: bool,
) -> Measured | None:
    try:
        return _measured(subject, task, setting, is_auto=is_auto)
    except LlmkdError as error:
        is_bad_input = isinstance(error, InputError)
        failures.append(Failure(subject.label, task.name, str(error), is_bad_input))
    except Exception as error:  # Whatever else it is must not cost the other tasks.
        known = explanation(error, setting.folder)
        if known is not None and not ran_out_of_memory(error):
            raise  # The disk is full, for the others too.
        message = " ".join(str(error).split()) or "no message"
        told = known or f"{type(error).__name__}: {message}"
        trace = traceback.format_exc()
        failures.append(Failure(subject.label, task.name, told, traceback=trace))
    say(f"failed: {failures[-1]}")
    return None


def _measured(
    subject: Subject, task: EvaluationTask, setting: Setting, *, is_auto: bool
) -> Measured:
    """Measures, with fewer and fewer examples at once where that is left to us and memory runs out."""
    while True:
        try:
            return measure(subject, task, setting)
        except Exception as error:
            subject.close()
            if not is_auto or setting.batch_size == 1 or not ran_out_of_memory(error):
                raise
        setting = replace(setting, batch_size=setting.batch_size // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"{task.name}: memory ran out; {setting.batch_size} examples at once from here on")


def _records(
    measured: Measured, subject: Subject, task: EvaluationTask, suite: Suite, seed: int
) -> list[Record]:
    return [
        Record(
            model=subject.label,
            suite=suite.name,
            task=task.name,
            metric=estimate.metric,
            value=(interval := estimate.found.interval).value,
            ci_low=interval.low,
            ci_high=interval.high,
            num_examples=estimate.num_examples,
            seed=seed,
        )
        for estimate in measured.estimates
    ]


def _compare(
    found: Evaluation,
    estimates: dict[tuple[str, str], list[Estimate]],
    models: tuple[str, str],
    suite: Suite,
    task: EvaluationTask,
) -> None:
    """Adds how a model differs from the baseline, where both were measured on the same examples."""
    baseline, model = models
    others = {one.metric: one for one in estimates.get((baseline, task.name), [])}
    if model == baseline:
        return
    found.details.differences += [
        asdict(
            difference(
                one, others[one.metric], suite=suite.name, task=task.name, models=(model, baseline)
            )
        )
        for one in estimates[model, task.name]
        if one.metric in others and are_comparable(one, others[one.metric])
    ]
