"""A teacher of rollouts behind a running `vllm serve`."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llmkd.losses.signals import LinearHead
from llmkd.recipe.rollout_teachers import server_refusals
from llmkd.teacher_data.engine import Engine
from llmkd.teachers.rollouts import Rollouts, foreign, readable


class ServedRollouts:
    """Asks an engine about the tokens that were drawn; implements `RolloutTeacher`.

    Args:
        engine: Scores token ids at temperature 1.
        vocab_size: Tokens that teacher and student share.
        ends: The tokens that end the teacher's texts.
        key: Where a recipe has the teacher, for messages.
    """

    def __init__(
        self, engine: Engine, *, vocab_size: int, ends: Sequence[int], key: str = "teacher"
    ):
        self.engine, self.vocab_size, self.ends, self.key = engine, vocab_size, ends, key

    def token_logprobs(
        self,
        rollouts: Rollouts,
        kept: Bool[Tensor, "batch completion"],
        *,
        temperature: float,
        batch_size: int,
    ) -> Float[Tensor, "batch completion"]:
        """See `RolloutTeacher.token_logprobs`; the server makes its own batches."""
        assert temperature == 1, "refused before"
        logprobs = torch.zeros(kept.shape)
        rows = kept.any(1).nonzero().flatten()
        if not len(rows):
            return logprobs.to(kept.device)
        sequences, spans = self._questions(rollouts.rows(rows), kept[rows])
        found = self.engine.score(sequences, spans)
        for row, positions, asked in zip(rows.tolist(), found, kept[rows].cpu(), strict=True):
            first = int(asked.int().argmax())
            of_span = torch.from_numpy(np.array(positions.label_log_prob))
            places = asked.nonzero().flatten()
            logprobs[row, places] = of_span[places - first]
        is_known = rollouts.completion_ids < self.vocab_size
        return logprobs.to(kept.device).masked_fill(kept & ~is_known, -torch.inf)

    def heads(
        self, rollouts: Rollouts, kept: Bool[Tensor, "batch completion"]
    ) -> list[tuple[Bool[Tensor, "batch completion"], LinearHead]]:
        """See `RolloutTeacher.heads`; a server has none to give."""
        raise AssertionError("refused before")

    def foreign_ends(
        self, rollouts: Rollouts, ends: Sequence[int]
    ) -> Bool[Tensor, "batch completion"]:
        """See `RolloutTeacher.foreign_ends`."""
        return foreign(rollouts, ends, self.ends)

    def refusals(self, *, temperature: float, full_vocabulary: bool) -> list[str]:
        """See `RolloutTeacher.refusals`."""
        return server_refusals(self.key, temperature=temperature, full_vocabulary=full_vocabulary)

    def close(self) -> None:
        """Closes the connections; the server runs on."""
        self.engine.close()

    def _questions(
        self, rollouts: Rollouts, kept: Tensor
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Of each rollout its tokens, and from the first to the last of those that are asked about."""
        ids, is_token, predicting = rollouts.sequences(kept)
        ids = readable(ids, self.vocab_size)
        sequences = [row[real].tolist() for row, real in zip(ids, is_token, strict=True)]
        places = [row.nonzero().flatten().add(1).tolist() for row in predicting]
        return sequences, [[each[0], each[-1] + 1] for each in places]
