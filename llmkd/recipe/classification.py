"""Tasks of suites for classifiers: labelled rows, and what is measured of the answers."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, Tag

from llmkd.recipe.base import kind_or
from llmkd.recipe.data import IntentTask, LabelledRows, is_regression
from llmkd.recipe.evaluation_base import FileTask

LabelMetric = Literal["accuracy", "macro_f1", "micro_f1", "f1", "mcc", "ece", "brier", "aurc"]
NumberMetric = Literal["pearson", "spearman", "mse"]
ClassifierMetric = Literal[LabelMetric, NumberMetric]
NUMBER_METRICS = get_args(NumberMetric)
NO_LABELS = "a regression has no `labels` to name; leave them out, or leave problem_type out"
ClassifierRows = Annotated[
    Annotated[IntentTask, Tag("task")] | Annotated[LabelledRows, Tag("classification")],
    kind_or("classification"),
]


class ClassifierTask(FileTask):
    """A task that only a classifier can do."""

    data: ClassifierRows
    """Rows that the classifier reads."""

    def with_file(self, path: str, columns: Mapping[str, str]) -> dict[str, Any]:
        """As of every task that reads files; a procedural task's own settings go."""
        content = super().with_file(path, columns)
        if isinstance(self.data, IntentTask):
            content["data"] = {"dataset_name": path, "columns": dict(columns)}
        return {**content, "data": {**content["data"], "kind": "classification"}}

    def problems(self) -> Iterator[tuple[str, str]]:
        """Fields that do not fit each other: which one, and what is wrong with it."""
        yield from ()


class ClassificationTask(ClassifierTask):
    """How often a classifier finds the label, and how far its probabilities can be trusted.

    Of rows with `problem_type: regression`, how well the model's number follows the label.
    """

    kind: Literal["classification"]
    data: ClassifierRows
    """Labelled rows; the model has to know their labels, or give a number where they are numbers."""
    metrics: list[ClassifierMetric] = Field(default=["accuracy", "macro_f1"], min_length=1)
    """What is measured: `f1` is that of `positive_label`, `mcc` Matthews' correlation, `ece` the
    expected calibration error, `brier` Brier's score over all labels (0 to 2), `aurc` the area under
    the risk-coverage curve. Of a regression they have to be written: `pearson` and `spearman`, the
    correlations of numbers and of their ranks (-1 to 1), and `mse`, the mean squared error."""
    positive_label: str | None = None
    """The label that `f1` is of."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """A metric that comes twice, `f1` without its label, and what does not fit the labels."""
        for name in dict.fromkeys(self.metrics):
            if self.metrics.count(name) > 1:
                yield "metrics", f"{name} comes twice; write each metric once"
        if ("f1" in self.metrics) != (self.positive_label is not None):
            yield (
                "positive_label",
                "f1 is of one label, and no other metric is; write both, f1 in metrics and "
                "positive_label, or neither",
            )
        yield from self._label_problems()

    def _label_problems(self) -> Iterator[tuple[str, str]]:
        is_of_numbers = is_regression(self.data)
        wrong = [one for one in self.metrics if (one in NUMBER_METRICS) != is_of_numbers]
        if wrong and is_of_numbers:
            message = f"{wrong[0]} is of labels that are names, and these are numbers; "
            yield "metrics", message + "write metrics: [pearson, spearman]"
        elif wrong:
            message = f"{wrong[0]} is of labels that are numbers; write others, or data with "
            yield "metrics", message + "problem_type: regression"
        if is_of_numbers and isinstance(self.data, LabelledRows) and self.data.labels:
            yield "data", NO_LABELS
