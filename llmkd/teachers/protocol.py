"""What a teacher is: something that gives signals for a batch."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from llmkd.losses.signals import Signals


@runtime_checkable
class Teacher(Protocol):
    """A source of next-token distributions for the student's own batch."""

    def signals(self, batch: dict[str, Tensor], kept: Tensor) -> Signals:
        """The teacher's predictions at the kept positions, in their order, without gradient.

        Args:
            batch: The student's; `target_ids` [B, T], or of a classifier [B].
            kept: Which positions to answer for, boolean; N of them.
        """
        ...
