"""What a teacher says of a student's rollouts.

Shapes: B rollouts, P prompt tokens, C completion tokens, T of both, N kept tokens, H hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmkd.losses.signals import LinearHead


@dataclass(frozen=True)
class Rollouts:
    """Prompts, padded on the left, and what the student wrote after them, padded on the right."""

    prompt_ids: Int[Tensor, "batch prompt"]
    prompt_mask: Int[Tensor, "batch prompt"]
    completion_ids: Int[Tensor, "batch completion"]
    completion_mask: Int[Tensor, "batch completion"]
    routes: Int[Tensor, " batch"] | None = None
    """Which of several teachers is asked; see `llmkd.teachers.routed`."""

    @classmethod
    def of(cls, batch: dict[str, Any]) -> "Rollouts":
        """Those of a batch, which may hold more."""
        parts: dict[str, Any] = {field.name: batch.get(field.name) for field in fields(cls)}
        return cls(**parts)

    def rows(self, rows: Int[Tensor, " n"]) -> "Rollouts":
        """Some of them."""
        parts: dict[str, Any] = {
            name: None if x is None else x[rows] for name, x in vars(self).items()
        }
        return Rollouts(**parts)

    def sequences(
        self, kept: Bool[Tensor, "batch completion"]
    ) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
        """Prompts with their completions, without padding between or before them.

        Args:
            kept: Which tokens of the completions are asked about.

        Returns:
            The token ids, padded on the right to the longest; which of them are no padding; and which
            positions predict a kept token.
        """
        ids = torch.cat([self.prompt_ids, self.completion_ids], 1)
        is_token = torch.cat([self.prompt_mask, self.completion_mask], 1).bool()
        asked = F.pad(kept, (self.prompt_ids.shape[1], 0))
        order = is_token.int().argsort(dim=1, descending=True, stable=True)
        order = order[:, : int(is_token.sum(1).max())]
        ids, is_token, asked = (x.gather(1, order) for x in (ids, is_token, asked))
        # Position t predicts token t + 1.
        return ids, is_token, F.pad(asked[:, 1:], (0, 1))


@runtime_checkable
class RolloutTeacher(Protocol):
    """A source of log-probabilities for tokens that the student drew."""

    def token_logprobs(
        self,
        rollouts: Rollouts,
        kept: Bool[Tensor, "batch completion"],
        *,
        temperature: float,
        batch_size: int,
    ) -> Float[Tensor, "batch completion"]:
        """The log-probabilities of the kept tokens, in nats; 0 elsewhere, without gradient.

        Args:
            rollouts: Those of one rank.
            kept: Which tokens of the completions are asked about.
            temperature: Divides the teacher's logits.
            batch_size: Rollouts that may be in the device's memory at once.

        Returns:
            -inf where the teacher's vocabulary lacks the token; float32, or float64.
        """
        ...

    def heads(
        self, rollouts: Rollouts, kept: Bool[Tensor, "batch completion"]
    ) -> list[tuple[Bool[Tensor, "batch completion"], LinearHead]]:
        """Whole distributions: the kept tokens in parts, and the head that predicts each part's.

        All at once, so the rollouts are to be those of one micro-batch.
        """
        ...

    def foreign_ends(
        self, rollouts: Rollouts, ends: Sequence[int]
    ) -> Bool[Tensor, "batch completion"]:
        """Where a completion has an end of the student's that does not end the teacher's texts.

        A teacher that ends with another token finds these all but impossible, wherever they come.

        Args:
            rollouts: The student's.
            ends: The tokens that end a response of the student's.
        """
        ...

    def refusals(self, *, temperature: float, full_vocabulary: bool) -> list[str]:
        """Why it cannot be asked so, each with what to write instead.

        Args:
            temperature: That the rollouts are sampled at.
            full_vocabulary: Whether `heads` is wanted, rather than `token_logprobs`.
        """
        ...


def readable(ids: Int[Tensor, "*shape"], vocab_size: int) -> Int[Tensor, "*shape"]:
    """What a teacher is given to read: a padded row of the student's is no token of its own."""
    return ids.clamp(max=vocab_size - 1)


def foreign(
    rollouts: Rollouts, ends: Sequence[int], own: Sequence[int]
) -> Bool[Tensor, "batch completion"]:
    """See `RolloutTeacher.foreign_ends`.

    Args:
        rollouts: The student's.
        ends: The student's ends.
        own: The teacher's; none where they are not known.
    """
    ids = rollouts.completion_ids
    return torch.isin(ids, ids.new_tensor(sorted({*ends} - {*own}) if own else []))
