"""Out-of-distribution detection: is a classifier less sure of what is unlike its training data?"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import kind_or
from llmkd.recipe.classification import ClassifierRows, ClassifierTask
from llmkd.recipe.data import AnyTask, LabelledRows, is_regression

Confidence = Literal["max_probability", "max_logit", "energy"]


class OODTask(ClassifierTask):
    """How well a classifier's confidence tells rows like its training data from others.

    What is out of distribution is either another source of rows, or marked by its label.
    """

    kind: Literal["ood"]
    data: ClassifierRows
    """Rows in distribution, whose labels are not looked at; with `out_labels` all rows."""
    out_data: (
        Annotated[
            Annotated[AnyTask, Tag("task")] | Annotated[LabelledRows, Tag("classification")],
            kind_or("classification"),
        ]
        | None
    ) = None
    """Rows out of distribution; they need no label."""
    out_labels: list[str] | None = Field(default=None, min_length=1)
    """Labels that mark rows of `data` as out of distribution."""
    confidence: Confidence = "max_probability"
    """What is to be high in distribution: the favourite label's probability, its logit, or the
    logarithm of the sum of exp of all logits (`energy`)."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Anything but one way to say what is out of distribution, or numbers as labels."""
        if is_regression(self.data) or is_regression(self.out_data):
            message = "a model that gives a number has no confidence in it; leave problem_type out"
            yield "data", message
        if (self.out_data is None) == (self.out_labels is None):
            yield (
                "out_data",
                "what is out of distribution is said in one way; write either out_data (other rows) "
                "or out_labels (labels that mark rows of data)",
            )
