"""Evaluation tasks so small that trying them takes a moment."""

from typing import Any

from llmkd.recipe.data import is_regression
from llmkd.recipe.evaluation import EvaluationTask
from llmkd.recipe.ood import OODTask

FEW_ROWS = 4
FEW_TOKENS = 8
LENGTHS = frozenset(["max_completion_length", "completion_length", "prompt_length"])
"""Fields of evaluation tasks that count tokens."""


def in_miniature(task: EvaluationTask) -> EvaluationTask:
    """A task with few rows and few tokens."""
    few: dict[str, Any] = {}
    data, generation = getattr(task, "data", None), getattr(task, "generation", None)
    if data is not None:
        few["data"] = data.model_copy(update=at_most(data, FEW_ROWS))
    if isinstance(task, OODTask):
        # Of the first rows, none may be marked.
        few |= {"out_data": few["data"], "out_labels": None}
    if is_regression(data):
        # Of a few rows, all labels may be equal, and have no correlation.
        few["metrics"] = ["mse"]
    if generation is not None:
        most = min(FEW_TOKENS, generation.max_completion_length)
        few["generation"] = generation.model_copy(update={"max_completion_length": most})
    for name in LENGTHS & type(task).model_fields.keys():
        few[name] = min(FEW_TOKENS, getattr(task, name))
    return task.model_copy(update=few)


def at_most(source: Any, num_rows: int) -> dict[str, int]:
    """The update of a source of rows that leaves so many at the most."""
    return {"num_examples": min(source.num_examples or num_rows, num_rows)}
