"""What a training is made of: the models, the data, and what makes batches of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from llmkd.data.prepare import TrainingData
from llmkd.models.positions import check_positions
from llmkd.teachers.in_process import InProcessTeacher


@dataclass(frozen=True)
class Parts:
    """Student, teacher and data, checked against each other."""

    student: PreTrainedModel
    teacher: InProcessTeacher | None
    vocab_size: int
    """Tokens that student and teacher share; of classifiers, the labels."""
    data: TrainingData
    collate: Callable[[list[Any]], dict[str, Tensor]]

    @property
    def models(self) -> dict[str, PreTrainedModel]:
        """The models, by what messages call them."""
        teacher = {} if self.teacher is None else {"teacher": self.teacher.model}
        return {"student": self.student, **teacher}

    def check_lengths(self) -> None:
        """Refuses data that a model has too few positions for."""
        for name, model in self.models.items():
            check_positions(model, self.data.longest, f"data.max_length ({name})")
