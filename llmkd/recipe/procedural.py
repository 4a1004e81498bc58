"""Procedural tasks that a stage of their own writes to a file."""

from typing import Annotated, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or
from llmkd.recipe.data import AdditionTask, NamedIntentTask, Split

Operation = Literal["plus", "minus"]
Order = Literal["ascending", "descending", "shuffled"]


class ChainedSumsTask(RecipePart):
    """Sums and differences of several numbers, taken one at a time: any order is right.

    A row's `answer` is the result alone. Generated from the seed; problems of the same numbers are
    always of the same split.
    """

    kind: Literal["task"]
    task: Literal["chained_sums"]
    """Which task."""
    operation: Literal["plus", "minus", "both"] = "plus"
    """Whether numbers are added, or taken from a first one; `both` has as many of one as of the
    other."""
    num_terms: int = Field(default=5, ge=2, le=12)
    """Numbers that are added, or taken away."""
    largest_term: int = Field(default=19, ge=1, le=999)
    """They are from 1 to this."""
    order: Order = "ascending"
    """The order in which the completion takes them."""
    reference_order: Order | None = None
    """Also do each problem in this order, in a column `reference`; null writes none."""
    num_examples: int = Field(gt=0)
    """How many different problems to make; refused where the split has fewer."""
    split: Split = "train"
    """`unlabelled` has other problems than `train`."""


WrittenTask = Annotated[
    Annotated[AdditionTask, Tag("addition")]
    | Annotated[NamedIntentTask, Tag("named_intents")]
    | Annotated[ChainedSumsTask, Tag("chained_sums")],
    kind_or("addition", "task"),
]


def columns_of(task: AdditionTask | NamedIntentTask | ChainedSumsTask) -> list[str]:
    """The columns of a task's rows."""
    columns = ["prompt", "completion", "answer"]
    if isinstance(task, AdditionTask) and task.steps == "rationale":
        columns.append("rationale")
    if isinstance(task, ChainedSumsTask) and task.reference_order is not None:
        columns.append("reference")
    return columns


class TaskRowsStage(RecipePart):
    """Writes the rows of a procedural task, for stages that read data sets.

    Product: a data set, and the task's tokenizer.
    """

    kind: Literal["task_rows"]
    data: WrittenTask
    """Which rows."""
