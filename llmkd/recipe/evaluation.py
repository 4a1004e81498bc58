"""What to measure: suites of tasks. Shipped suites are YAML files in eval/suites/."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or
from llmkd.recipe.data import AdditionTask, IntentTask, LabelledRows
from llmkd.recipe.distillation_effects import AgreementTask, CostTask, DraftTask
from llmkd.recipe.evaluation_base import FileTask, NamedTask, TextTask
from llmkd.recipe.harness import LMEvalTask


class ExactMatchTask(NamedTask):
    """Greedy answers to a procedural task's prompts, right or wrong to the character."""

    kind: Literal["exact_match"]
    data: AdditionTask
    """The sums to ask; take a split that no training saw."""
    max_completion_length: int = Field(default=64, gt=0)
    """Tokens after which an answer is cut (and wrong)."""


class PerplexityTask(TextTask):
    """exp of the mean negative log-likelihood per token, in nats, over the rows of a data set."""

    kind: Literal["perplexity"]


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
    ExactMatchTask
    | PerplexityTask
    | AccuracyTask
    | AgreementTask
    | DraftTask
    | CostTask
    | LMEvalTask,
    Field(discriminator="kind"),
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
