"""What to measure: suites of tasks. Shipped suites are YAML files in eval/suites/."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or
from llmkd.recipe.data import AdditionTask, IntentTask, LabelledRows, TextSource
from llmkd.recipe.evaluation_base import FileTask, NamedTask
from llmkd.recipe.reasoning import ReasoningTask


class ExactMatchTask(NamedTask):
    """Greedy answers to a procedural task's prompts, right or wrong to the character."""

    kind: Literal["exact_match"]
    data: AdditionTask
    """The sums to ask; take a split that no training saw."""
    max_completion_length: int = Field(default=64, gt=0)
    """Tokens after which an answer is cut (and wrong)."""


class PerplexityTask(FileTask):
    """exp of the mean negative log-likelihood per token, in nats, over the rows of a data set.

    Of rows of text also bits per byte, and perplexity per byte and per word.
    """

    kind: Literal["perplexity"]
    data: TextSource
    """Rows of `text`, of which every token but the first of a row or stream is scored once; or of
    `prompt` and `completion`, or `messages`, of which only the completion, or what the assistant
    says, is."""
    join_rows: bool = False
    """Join all rows of text to one stream, each begun by the begin-of-text token, before cutting
    windows. Otherwise each row is cut for itself."""


class AccuracyTask(FileTask):
    """How often a classifier's favourite label is the row's: accuracy, and macro F1 over labels."""

    kind: Literal["accuracy"]
    data: Annotated[
        Annotated[IntentTask, Tag("task")] | Annotated[LabelledRows, Tag("classification")],
        kind_or("classification"),
    ]
    """Labelled rows; the model has to know their labels."""

    def with_file(self, path: str, columns: Mapping[str, str]) -> dict[str, Any]:
        """As of every task that reads files; a procedural task's own settings go."""
        content = super().with_file(path, columns)
        if isinstance(self.data, IntentTask):
            content["data"] = {"dataset_name": path, "columns": dict(columns)}
        return {**content, "data": {**content["data"], "kind": "classification"}}


EvaluationTask = Annotated[
    ExactMatchTask | PerplexityTask | AccuracyTask | ReasoningTask, Field(discriminator="kind")
]


class Suite(RecipePart):
    """A named list of tasks."""

    name: str = Field(min_length=1)
    """What results call the suite."""
    description: str = ""
    """One line on what it measures."""
    tasks: list[EvaluationTask] = Field(min_length=1)
    """What is measured, in order."""


def is_for_classifiers(suite: Suite) -> bool:
    """Whether a suite measures classifiers rather than language models; never both."""
    return any(isinstance(task, AccuracyTask) for task in suite.tasks)
