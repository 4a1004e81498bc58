"""Suites: shipped ones by name, others by path, and their tasks' data from the command line."""

from collections.abc import Sequence
from pathlib import Path

from llmkd.errors import InputError
from llmkd.recipe import shipped
from llmkd.recipe.data import LabelledRows, TextSource
from llmkd.recipe.evaluation import AccuracyTask, EvaluationTask, ExactMatchTask, Suite
from llmkd.recipe.load import load_part


def find_suite(suite: str | Path | Suite) -> Suite:
    """The suite of a shipped name or a YAML file; a suite is returned as it is.

    Raises:
        InputError: There is no such suite, or it has mistakes.
    """
    return suite if isinstance(suite, Suite) else load_part(shipped.find_suite(suite), Suite)


def with_data(suite: Suite, replacements: Sequence[str]) -> Suite:
    """The suite with other data for some of its tasks.

    Args:
        suite: Where the tasks' other settings come from.
        replacements: `TASK=FILE` each.

    Raises:
        InputError: No such task, or one that makes its own data.
    """
    files = dict(_read(text, suite) for text in replacements)
    tasks = [_with_file(task, files.get(task.name)) for task in suite.tasks]
    return suite.model_copy(update={"tasks": tasks})


def _read(text: str, suite: Suite) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    names = [task.name for task in suite.tasks if not isinstance(task, ExactMatchTask)]
    if name not in names or not equals or not file:
        there = f"of suite {suite.name}: {', '.join(names)}" if names else "none here"
        raise InputError(
            f"--data {text}: no TASK=FILE; write one of the tasks that read files ({there}), "
            "an equals sign, and a path"
        )
    return name, file


def _with_file(task: EvaluationTask, file: str | None) -> EvaluationTask:
    if file is None or isinstance(task, ExactMatchTask):
        return task
    if isinstance(task, AccuracyTask):
        kept = task.data.model_dump(include={"max_length"})
        rows = LabelledRows(kind="classification", dataset_name=file, **kept)
        return task.model_copy(update={"data": rows})
    data = TextSource(dataset_name=file, max_length=task.data.max_length)
    return task.model_copy(update={"data": data})
