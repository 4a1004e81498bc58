"""Several teachers of rollouts, each of its own part of the data."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llmkd.errors import InputError
from llmkd.losses.signals import LinearHead
from llmkd.teachers.rollouts import Rollouts, RolloutTeacher


class RoutedTeacher:
    """Has each rollout scored by the teacher that its row of the data names.

    Implements `RolloutTeacher`, of rollouts that have `routes`.

    Args:
        column: The column of the data that names the teacher.
        teachers: By what the column says.
    """

    def __init__(self, column: str, teachers: Mapping[str, RolloutTeacher]):
        self.column, self.teachers = column, dict(teachers)

    def routes(self, rows: Iterable[Mapping[str, Any]]) -> list[int]:
        """Which of the teachers each row of the data names.

        Raises:
            InputError: A row names none, or one that is not there; it is counted from 1.
        """
        numbers = {name: number for number, name in enumerate(self.teachers)}
        found = list[int]()
        for row in rows:
            name = str(row.get(self.column))
            if name not in numbers:
                raise InputError(self._no_teacher(len(found) + 1, row))
            found.append(numbers[name])
        return found

    def token_logprobs(
        self,
        rollouts: Rollouts,
        kept: Bool[Tensor, "batch completion"],
        *,
        temperature: float,
        batch_size: int,
    ) -> Float[Tensor, "batch completion"]:
        """See `RolloutTeacher.token_logprobs`."""
        logprobs = torch.zeros(kept.shape, device=kept.device)
        for teacher, part in self._parts(rollouts, kept):
            found = teacher.token_logprobs(
                rollouts, part, temperature=temperature, batch_size=batch_size
            )
            logprobs = torch.where(part, found, logprobs)
        return logprobs

    def heads(
        self, rollouts: Rollouts, kept: Bool[Tensor, "batch completion"]
    ) -> list[tuple[Bool[Tensor, "batch completion"], LinearHead]]:
        """See `RolloutTeacher.heads`."""
        parts = self._parts(rollouts, kept)
        return [head for teacher, part in parts for head in teacher.heads(rollouts, part)]

    def foreign_ends(
        self, rollouts: Rollouts, ends: Sequence[int]
    ) -> Bool[Tensor, "batch completion"]:
        """See `RolloutTeacher.foreign_ends`: of each rollout's own teacher."""
        is_foreign = torch.zeros_like(rollouts.completion_mask, dtype=torch.bool)
        for teacher, part in self._parts(rollouts, ~is_foreign):
            is_foreign = is_foreign | part & teacher.foreign_ends(rollouts, ends)
        return is_foreign

    def refusals(self, *, temperature: float, full_vocabulary: bool) -> list[str]:
        """See `RolloutTeacher.refusals`: those of all teachers."""
        return [
            problem
            for teacher in self.teachers.values()
            for problem in teacher.refusals(
                temperature=temperature, full_vocabulary=full_vocabulary
            )
        ]

    def _parts(self, rollouts: Rollouts, kept: Tensor) -> list[tuple[RolloutTeacher, Tensor]]:
        """Each teacher that is asked, and its part of the kept tokens."""
        assert rollouts.routes is not None
        parts = [
            (teacher, kept & (rollouts.routes == number)[:, None])
            for number, teacher in enumerate(self.teachers.values())
        ]
        return [(teacher, part) for teacher, part in parts if part.any()]

    def _no_teacher(self, number: int, row: Mapping[str, Any]) -> str:
        names = ", ".join(self.teachers)
        if row.get(self.column) is None:
            return (
                f"teacher.column: row {number} has no `{self.column}`, which says which teacher is "
                f"asked; write one of {names} there, or name another column"
            )
        return (
            f"teacher.teachers: row {number} has `{self.column}` {str(row[self.column])!r}, and the "
            f"teachers are those of {names}; add one, or leave such rows out of the data"
        )
