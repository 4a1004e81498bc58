"""What measuring one model on one task takes and gives."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmkd.errors import InputError
from llmkd.evaluation.details import TaskDetails
from llmkd.evaluation.kept import Kept
from llmkd.evaluation.statistics import Bootstrap
from llmkd.evaluation.subject import Subject
from llmkd.models.finite import OVERFLOW
from llmkd.progress import Progress
from llmkd.recipe.base import RecipePart
from llmkd.recipe.teacher_data import Engine


@dataclass(frozen=True)
class Setting:
    """How a task is done, whatever the task.

    Args:
        batch_size: Most examples scored or generated together.
        first: The first of the models, whose tokenizer cuts the texts that all continue.
        seed: Decides which examples a procedural task makes, the same for all models, what is
            sampled, and the bootstrap's resamples.
        progress: Called with (done, total) examples.
        folder: Where answers are kept as they come; None keeps none.
        engine: What writes completions; None takes transformers.
        teacher: The model that a student is compared with, where one is named.
    """

    first: Subject
    batch_size: int
    seed: int
    progress: Progress
    folder: Path | None = None
    engine: Engine | None = None
    teacher: Subject | None = None

    def kept(self, subject: Subject, task: RecipePart, **more: Any) -> Kept:
        """The answers that are there already of a model on a task, and room for the rest.

        Args:
            subject: Whose answers.
            task: Of which task.
            more: What the answers depend on besides task, model, engine and seed.
        """
        engine = None if self.engine is None else self.engine.model_dump(mode="json")
        settings = {
            "task": task.model_dump(mode="json"),
            "model": subject.content,
            "engine": engine,
            "seed": self.seed,
            **more,
        }
        return Kept(None if self.folder is None else self.folder / "answers.jsonl", settings)


def refuse_nan(values: Iterable[float], task: str) -> None:
    """Refuses what a model gave before it is kept.

    Args:
        values: Losses, or what else is a number for every model that works.
        task: Its name.

    Raises:
        InputError: Some are NaN.
    """
    if any(map(math.isnan, values)):
        raise InputError(f"tasks.{task}: {OVERFLOW}")


@dataclass(frozen=True)
class Estimate:
    """A metric of one model on one task."""

    metric: str
    found: Bootstrap
    num_examples: int
    """What was resampled: rows, or windows where rows are joined."""
    unit: str = ""
    """What it is counted in, such as a tokenizer's tokens: only what is counted alike is compared."""
    is_repeatable: bool = True
    """Whether measuring again gives the same; of time and memory it does not, and nothing is said of
    what could be noise."""


@dataclass(frozen=True)
class Measured:
    """One model on one task."""

    estimates: Sequence[Estimate]
    details: TaskDetails = field(default_factory=TaskDetails)
