"""A frozen teacher on the student's device, scored batch by batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmkd.losses.signals import DenseLogits, LinearHead, wide
from llmkd.models.sharded import is_sharded
from llmkd.models.signals import signals
from llmkd.teachers.rollouts import Rollouts, foreign, readable
from llmkd.teachers.token_logprobs import token_logprobs


class InProcessTeacher:
    """Runs the teacher on the student's batch; implements `Teacher` and `RolloutTeacher`.

    Args:
        model: Frozen here and set to evaluation mode.
        vocab_size: Tokens that teacher and student share; padded rows beyond it are cropped.
        compute_dtype: Autocast type for the forward pass; None computes in the weights' own.
        is_offloaded: The weights stay where they are, on the CPU, and are copied to the device for as
            long as the teacher is asked: once for all rollouts of a generation batch by
            `token_logprobs`, once for each micro-batch by `heads`. Nothing is copied back.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        vocab_size: int,
        compute_dtype: torch.dtype | None = None,
        is_offloaded: bool = False,
    ):
        self.model = model.eval().requires_grad_(False)
        self.vocab_size = vocab_size
        self.compute_dtype = compute_dtype
        self.is_offloaded = is_offloaded

    @torch.no_grad()
    def signals(self, batch: dict[str, Tensor], kept: Tensor) -> LinearHead | DenseLogits:
        """See `Teacher.signals`. Moves the teacher to the batch's device at the first call."""
        device = kept.device
        with (
            self.awake(device),
            torch.autocast(
                device.type, dtype=self.compute_dtype, enabled=self.compute_dtype is not None
            ),
        ):
            return signals(self.model, self.model, batch, kept, self.vocab_size)

    @torch.no_grad()
    def token_logprobs(
        self,
        rollouts: Rollouts,
        kept: Bool[Tensor, "batch completion"],
        *,
        temperature: float,
        batch_size: int,
    ) -> Float[Tensor, "batch completion"]:
        """See `RolloutTeacher.token_logprobs`. Rollouts of similar length are read together."""
        logprobs = torch.zeros(kept.shape, dtype=wide(self.model.dtype), device=kept.device)
        rows = _by_length(rollouts, kept)
        if not len(rows):
            return logprobs
        with self.awake(kept.device):
            for some in rows.split(batch_size):
                part, tokens = rollouts.rows(some), kept[some]
                found = token_logprobs(
                    self._head(part, tokens), part.completion_ids[tokens], temperature=temperature
                )
                logprobs[some] = logprobs[some].masked_scatter(tokens, found.to(logprobs.dtype))
        return logprobs

    def heads(
        self, rollouts: Rollouts, kept: Bool[Tensor, "batch completion"]
    ) -> list[tuple[Bool[Tensor, "batch completion"], LinearHead]]:
        """See `RolloutTeacher.heads`."""
        rows = kept.any(1).nonzero().flatten()
        return [(kept, self._head(rollouts.rows(rows), kept[rows]))] if len(rows) else []

    def foreign_ends(
        self, rollouts: Rollouts, ends: Sequence[int]
    ) -> Bool[Tensor, "batch completion"]:
        """See `RolloutTeacher.foreign_ends`; its own are those of its generation configuration."""
        own = getattr(self.model.generation_config, "eos_token_id", None)
        if isinstance(own, int):
            own = [own]
        return foreign(rollouts, ends, own or [])

    def refusals(self, *, temperature: float, full_vocabulary: bool) -> list[str]:
        """See `RolloutTeacher.refusals`: it can do both."""
        return []

    @contextmanager
    def awake(self, device: torch.device) -> Iterator[None]:
        """The weights on a device: for good, or if they are offloaded, inside the block."""
        if self.model.device == device or is_sharded(self.model):
            yield
        elif self.is_offloaded:
            with lent(self.model, device):
                yield
        else:
            self.model.to(device)  # pyright: ignore[reportArgumentType]
            yield

    def _head(self, rollouts: Rollouts, kept: Tensor) -> LinearHead:
        ids, is_token, predicting = rollouts.sequences(kept)
        batch = {
            "input_ids": readable(ids, self.vocab_size),
            "attention_mask": is_token.to(ids.dtype),
        }
        head = self.signals(batch, predicting)
        assert isinstance(head, LinearHead), "rollouts are a language model's"
        return head


@contextmanager
def lent(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Copies of a frozen model's weights on a device, in place of those that it has."""
    tensors = [*model.parameters(), *model.buffers()]
    own = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device, non_blocking=True, copy=True)
        yield
    finally:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data


def _by_length(rollouts: Rollouts, kept: Tensor) -> Int[Tensor, " n"]:
    """The rollouts with kept tokens, the longest first: what memory they take shows at once."""
    rows = kept.any(1).nonzero().flatten()
    lengths = rollouts.prompt_mask.sum(1) + rollouts.completion_mask.sum(1)
    return rows[lengths[rows].argsort(descending=True)]
