"""The terms of an objective on logits that are already there: a classifier's."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmkd.losses.blocks import Rows, take
from llmkd.losses.scratch import block_scratch
from llmkd.losses.signals import DenseLogits, wide
from llmkd.losses.terms import HeadOutput, HeadTerm, Targets, weighted_sum


def divergence_from_logits(
    student: DenseLogits,
    teacher: DenseLogits | None,
    target_ids: Targets,
    terms: Sequence[HeadTerm],
    position_weights: Float[Tensor, "num_terms n"],
    *,
    diagnostics: Sequence[HeadTerm] = (),
) -> HeadOutput:
    """`llmkd.losses.linear_head.divergence_from_hidden` without a head; see there."""
    dtype = wide(student.logits.dtype)
    rows = Rows(target_ids, position_weights.detach().to(dtype), tuple(terms), tuple(diagnostics))
    teacher_logits = None if teacher is None else teacher.logits.detach().to(dtype)
    with torch.autocast(student.logits.device.type, enabled=False):
        return HeadOutput(*_DenseLoss.apply(student.logits.to(dtype), teacher_logits, rows))


class _DenseLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, teacher_logits: Tensor | None, rows: Rows
    ) -> tuple[Tensor, Tensor, Tensor]:
        whole = slice(0, len(logits))
        # What is kept must not be made in inference mode, which forbids to change it later.
        with torch.inference_mode(False), torch.no_grad():
            values, diagnostics = rows.new_outputs()
            gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
            take(
                rows,
                whole,
                logits,
                teacher_logits,
                values,
                diagnostics,
                gradient=gradient,
                scratch=block_scratch(),
            )
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(values, diagnostics)
        return weighted_sum(rows.weights, values), values, diagnostics

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *output_gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * output_gradients[0], None, None
