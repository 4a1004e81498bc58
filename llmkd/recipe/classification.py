"""Tasks of suites for classifiers: labelled rows, and what is measured of the answers."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import kind_or
from llmkd.recipe.data import IntentTask, LabelledRows
from llmkd.recipe.evaluation_base import FileTask

ClassifierMetric = Literal["accuracy", "macro_f1", "micro_f1", "f1", "mcc", "ece", "brier", "aurc"]
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
    """How often a classifier finds the label, and how far its probabilities can be trusted."""

    kind: Literal["classification"]
    data: ClassifierRows
    """Labelled rows; the model has to know their labels."""
    metrics: list[ClassifierMetric] = Field(default=["accuracy", "macro_f1"], min_length=1)
    """What is measured: `f1` is that of `positive_label`, `mcc` Matthews' correlation, `ece` the
    expected calibration error, `brier` Brier's score over all labels (0 to 2), `aurc` the area under
    the risk-coverage curve."""
    positive_label: str | None = None
    """The label that `f1` is of."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """A metric that comes twice, and `f1` without its label."""
        for name in dict.fromkeys(self.metrics):
            if self.metrics.count(name) > 1:
                yield "metrics", f"{name} comes twice; write each metric once"
        if ("f1" in self.metrics) != (self.positive_label is not None):
            yield (
                "positive_label",
                "f1 is of one label, and no other metric is; write both, f1 in metrics and "
                "positive_label, or neither",
            )
