"""A frozen teacher on the student's device, scored batch by batch."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmkd.losses.signals import DenseLogits, LinearHead
from llmkd.models.signals import signals


class InProcessTeacher:
    """Runs the teacher on the student's batch; implements `Teacher`.

    Args:
        model: Frozen here and set to evaluation mode.
        vocab_size: Tokens that teacher and student share; padded rows beyond it are cropped.
        compute_dtype: Autocast type for the forward pass; None computes in the weights' own.
    """

    def __init__(
        self, model: PreTrainedModel, *, vocab_size: int, compute_dtype: torch.dtype | None = None
    ):
        self.model = model.eval().requires_grad_(False)
        self.vocab_size = vocab_size
        self.compute_dtype = compute_dtype

    @torch.no_grad()
    def signals(self, batch: dict[str, Tensor], kept: Tensor) -> LinearHead | DenseLogits:
        """See `Teacher.signals`. Moves the teacher to the batch's device at the first call."""
        device = kept.device
        if self.model.device != device:
            self.model.to(device)  # pyright: ignore[reportArgumentType]
        with torch.autocast(
            device.type, dtype=self.compute_dtype, enabled=self.compute_dtype is not None
        ):
            return signals(self.model, self.model, batch, kept, self.vocab_size)
