"""What a training is made of: the models, the data, and what makes batches of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from llmkd.data.prepare import TrainingData
from llmkd.errors import InputError
from llmkd.models.agreement import too_long_for
from llmkd.models.positions import check_positions, hard_limit
from llmkd.recipe.schema import TrainStage
from llmkd.teachers.protocol import Teacher


@dataclass(frozen=True)
class Parts:
    """Student, teacher and data, checked against each other."""

    models: dict[str, PreTrainedModel]
    """`student`, and `teacher` where it is here."""
    teacher: Teacher | None
    vocab_size: int
    """Tokens that student and teacher share; of classifiers, the labels."""
    data: TrainingData
    collate: Callable[[list[Any]], dict[str, Tensor]]

    def check_lengths(self, stage: TrainStage) -> None:
        """Refuses data that a model has too few positions for."""
        for role, model in self.models.items():
            limit, longest = hard_limit(model), self.data.longest
            if limit is not None and longest > limit:
                key, message = too_long_for(stage, role, longest, limit)
                raise InputError(f"{'.'.join(key)}: {message}")
            check_positions(model, longest, f"data ({role})")
