"""The terms of an objective on logits that are already there: a classifier's."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmkd.losses.linear_head import HeadOutput, HeadTerm, shared_logprobs, weighted_sum
from llmkd.losses.signals import DenseLogits, wide


def divergence_from_logits(
    student: DenseLogits,
    teacher: DenseLogits | None,
    target_ids: Int[Tensor, " n"],
    terms: Sequence[HeadTerm],
    position_weights: Float[Tensor, "num_terms n"],
    *,
    diagnostics: Sequence[HeadTerm] = (),
) -> HeadOutput:
    """`llmkd.losses.linear_head.divergence_from_hidden` without a head; see there."""
    dtype = wide(student.logits.dtype)
    weights = position_weights.detach().to(dtype)
    with torch.autocast(student.logits.device.type, enabled=False):
        logprobs_at = shared_logprobs(
            student.logits.to(dtype), None if teacher is None else teacher.logits.detach().to(dtype)
        )
        values = torch.stack(
            [term.divergence(*logprobs_at(term.temperature), target_ids) for term in terms]
        )
        with torch.no_grad():
            measured = [
                term.divergence(*logprobs_at(term.temperature), target_ids) for term in diagnostics
            ]
    shown = torch.stack(measured) if measured else weights.new_empty(0, len(target_ids))
    return HeadOutput(weighted_sum(weights, values), values.detach(), shown)
