"""What to measure: suites of tasks. Shipped suites are YAML files in eval/suites/."""

from typing import Annotated, Literal

from pydantic import Field

from llmkd.recipe.base import RecipePart
from llmkd.recipe.classification import ClassificationTask, ClassifierTask
from llmkd.recipe.data import AdditionTask
from llmkd.recipe.distillation_effects import AgreementTask, CostTask, DraftTask, TeacherTask
from llmkd.recipe.evaluation_base import NamedTask, TextTask
from llmkd.recipe.harness import LMEvalTask
from llmkd.recipe.ood import OODTask
from llmkd.recipe.reasoning import ReasoningTask
from llmkd.recipe.teacher_data import Engine, TransformersEngine


class ExactMatchTask(NamedTask):
    """Greedy answers to a procedural task's prompts, right or wrong to the character."""

    kind: Literal["exact_match"]
    data: AdditionTask
    """The sums to ask; take a split that no training saw."""
    max_completion_length: int = Field(default=64, gt=0)
    """Tokens after which an answer is cut (and wrong)."""


class PerplexityTask(TextTask):
    """exp of the mean negative log-likelihood per token, in nats, over the rows of a data set.

    Of rows of text also bits per byte, and perplexity per byte and per word.
    """

    kind: Literal["perplexity"]


RowsTask = (
    ExactMatchTask
    | PerplexityTask
    | ClassificationTask
    | OODTask
    | AgreementTask
    | DraftTask
    | LMEvalTask
    | ReasoningTask
)
"""Tasks that are of rows, whatever these are."""
EvaluationTask = Annotated[RowsTask | CostTask, Field(discriminator="kind")]


class Suite(RecipePart):
    """A named list of tasks."""

    name: str = Field(min_length=1)
    """What results call the suite."""
    description: str = ""
    """One line on what it measures."""
    tasks: list[EvaluationTask] = Field(min_length=1)
    """What is measured, in order."""


def compares_with_teacher(suite: Suite) -> bool:
    """Whether any task of a suite asks for a teacher."""
    return any(isinstance(task, TeacherTask) for task in suite.tasks)


def is_in_transformers(task: EvaluationTask, engine: Engine | None) -> bool:
    """Whether the process that measures has the model in transformers for a task.

    Otherwise it is in an engine, or in a process of its own.
    """
    if isinstance(task, ReasoningTask | LMEvalTask):
        return engine is None or isinstance(engine, TransformersEngine)
    return not isinstance(task, CostTask)


def is_for_classifiers(suite: Suite) -> bool:
    """Whether a suite measures classifiers rather than language models; never both."""
    return any(isinstance(task, ClassifierTask) for task in suite.tasks)
