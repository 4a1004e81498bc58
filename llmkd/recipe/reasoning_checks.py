"""Checks across the fields of a reasoning task."""

from collections.abc import Iterator

from llmkd.recipe.evaluation import Suite
from llmkd.recipe.places import Problem
from llmkd.recipe.reasoning import ReasoningTask
from llmkd.recipe.yaml_places import Key


def reasoning_problems(suite: Suite, key: Key) -> Iterator[Problem]:
    """What no field can know by itself.

    Args:
        suite: Whose tasks are checked.
        key: Of the tasks.
    """
    for index, task in enumerate(suite.tasks):
        if isinstance(task, ReasoningTask):
            yield from _of_task(task, (*key, index))


def _of_task(task: ReasoningTask, key: Key) -> Iterator[Problem]:
    if "{question}" not in task.prompt:
        yield Problem(
            (*key, "prompt"),
            "has no {question}, so nothing would be asked; write it where it belongs",
        )
    count = task.generation.num_samples
    if count > 1 and task.generation.temperature == 0:
        yield Problem(
            (*key, "generation", "temperature"),
            f"0 gives the same answer {count} times; write a temperature such as 0.6 "
            "(--temperature), or num_samples: 1",
        )
    if task.ks[-1] > count:
        yield Problem(
            (*key, "pass_at"),
            f"{task.ks[-1]} needs as many samples, and generation.num_samples is {count}; write a "
            f"smaller k, or num_samples: {task.ks[-1]}",
        )
    if isinstance(task.fewshot, list) and len(task.fewshot) < task.num_fewshot:
        yield Problem(
            (*key, "num_fewshot"),
            f"{task.num_fewshot} examples are asked for, and fewshot has {len(task.fewshot)}; write "
            f"num_fewshot: {len(task.fewshot)}, or more examples",
        )
