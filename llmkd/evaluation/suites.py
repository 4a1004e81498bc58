"""Suites: shipped ones by name, others by path, and what the command line changes in them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmkd.errors import InputError
from llmkd.recipe import shipped
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.evaluation_base import FileTask
from llmkd.recipe.load import checked_part, load_part
from llmkd.recipe.places import meant

ROWS = (("data", "num_examples"), ("out_data", "num_examples"))
"""Where a task says how many rows are measured."""


def find_suite(suite: str | Path | Suite) -> Suite:
    """The suite of a shipped name or a YAML file; a suite is returned as it is.

    Raises:
        InputError: There is no such suite, or it has mistakes.
    """
    return suite if isinstance(suite, Suite) else load_part(shipped.find_suite(suite), Suite)


def with_tasks(suite: Suite, names: Sequence[str]) -> Suite:
    """The suite with some of its tasks only, in its own order.

    Raises:
        InputError: No such task; says which one is near.
    """
    for name in names:
        if name not in (known := [task.name for task in suite.tasks]):
            raise InputError(
                f"--tasks: suite {suite.name} has no task {name}; {meant(name, known)}"
            )
    return suite.model_copy(update={"tasks": [task for task in suite.tasks if task.name in names]})


def with_data(suite: Suite, files: Sequence[str], columns: Sequence[str] = ()) -> Suite:
    """The suite with other data for some of its tasks.

    Args:
        suite: Where the tasks' other settings come from.
        files: `TASK=FILE` each.
        columns: `TASK.COLUMN=NAME` each: what TASK's file calls a column.

    Raises:
        InputError: No such task, one that makes its own data, or a column that the task has not.
    """
    paths = dict(_parted(text, "--data", "TASK=FILE") for text in files)
    named: dict[str, dict[str, str]] = {}
    for text in columns:
        place, column = _parted(text, "--columns", "TASK.COLUMN=NAME")
        # A task's name and a column's may both hold a dot.
        begun = [known for known in paths if place.startswith(f"{known}.")]
        task = max(begun, key=len, default=place.rpartition(".")[0])
        name = place.removeprefix(f"{task}.")
        if task not in paths:
            raise InputError(
                f"--columns {text}: no --data for {task!r}; write --data {task}=FILE too"
            )
        named.setdefault(task, {})[name] = column
    for name in paths:
        _refuse_without_file(suite, name)
    tasks = [
        task.with_file(paths[task.name], named.get(task.name, {}))
        if task.name in paths and isinstance(task, FileTask)
        else task.model_dump(mode="json")
        for task in suite.tasks
    ]
    return _made(suite, tasks, "--data")


def with_settings(suite: Suite, settings: Mapping[tuple[str, ...], Any], option: str) -> Suite:
    """The suite with settings put in every task that has them.

    Args:
        suite: The suite.
        settings: Place in a task, such as `("data", "num_examples")`, to value.
        option: What the user wrote, for errors.

    Raises:
        InputError: No task has such a setting, or the value is none for it.
    """
    tasks = [task.model_dump(mode="json") for task in suite.tasks]
    for place, value in settings.items():
        holders = _holders(tasks, place)
        if not holders:
            raise _nowhere(suite, place, option)
        for holder in holders:
            holder[place[-1]] = value
    return _made(suite, tasks, option)


def with_limit(suite: Suite, limit: int) -> Suite:
    """The suite with no more than so many rows of any data; what has fewer keeps its own number.

    Raises:
        InputError: No task has rows.
    """
    tasks = [task.model_dump(mode="json") for task in suite.tasks]
    holders = [holder for place in ROWS for holder in _holders(tasks, place)]
    if not holders:
        raise _nowhere(suite, ROWS[0], "--limit")
    for holder in holders:
        holder["num_examples"] = min(limit, holder["num_examples"] or limit)
    return _made(suite, tasks, "--limit")


def _nowhere(suite: Suite, place: tuple[str, ...], option: str) -> InputError:
    return InputError(
        f"{option}: no task of suite {suite.name} has {'.'.join(place)}; leave it out"
    )


def _holders(tasks: Sequence[dict[str, Any]], place: tuple[str, ...]) -> list[dict[str, Any]]:
    return [holder for task in tasks if (holder := _holder(task, place)) is not None]


def _holder(task: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any] | None:
    holder: Any = task
    for key in place[:-1]:
        holder = holder.get(key) if isinstance(holder, dict) else None
    return holder if isinstance(holder, dict) and place[-1] in holder else None


def _made(suite: Suite, tasks: Sequence[dict[str, Any]], option: str) -> Suite:
    return checked_part({**suite.model_dump(mode="json"), "tasks": list(tasks)}, Suite, option)


def _parted(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise InputError(f"{option} {text}: is not {form}; write {option} {form}")
    return name, value


def _refuse_without_file(suite: Suite, name: str) -> None:
    known = [task.name for task in suite.tasks if isinstance(task, FileTask)]
    if name in known:
        return
    there = meant(name, known) if known else "no task of it reads files; leave --data out"
    raise InputError(
        f"--data {name}: suite {suite.name} has no such task that reads files; {there}"
    )
