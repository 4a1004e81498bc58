"""What a teacher is: something that gives signals for a batch."""

from typing import Protocol

from torch import Tensor

from llmkd.losses.linear_head import LinearHead


class Teacher(Protocol):
    """A source of next-token distributions for the student's own batch."""

    def signals(self, batch: dict[str, Tensor], kept: Tensor) -> LinearHead:
        """The teacher's head over the kept positions, in their order, without gradient.

        Args:
            batch: `input_ids`, `attention_mask` and `target_ids`, [B, T].
            kept: Which positions to answer for, boolean [B, T]; N of them.
        """
        ...
